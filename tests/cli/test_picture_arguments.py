"""Pictures as people name them: folders, patterns, addresses, the standard input."""

from __future__ import annotations

import http.server
import io
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from ldeq.cli import main, pictures
from ldeq.cli.pictures import find_pictures, output_names
from ldeq.data import ImageError, read_image
from ldeq.engine import SettingsError


class _Server(http.server.BaseHTTPRequestHandler):
    content = b""

    def do_GET(self) -> None:
        if self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", "/face.png")
            self.end_headers()
        elif self.path.startswith("/elsewhere"):
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()
        elif self.path.startswith("/silent"):
            threading.Event().wait(2)
        elif self.path.startswith("/cut"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.content) * 2))
            self.end_headers()
            self.wfile.write(self.content)
        elif self.path.startswith("/drip"):
            self.send_response(200)
            self.end_headers()
            for byte in self.content[:20]:
                self.wfile.write(bytes([byte]))
                threading.Event().wait(0.1)
        elif self.path.startswith("/face.png"):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.content)
        else:
            self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(face: Path) -> Iterator[str]:
    _Server.content = face.read_bytes()
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    running.daemon_threads = True
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{running.server_address[1]}"
    running.shutdown()
    thread.join()
    running.server_close()


def test_an_address_is_read_through_a_redirection_too(server: str, face: Path) -> None:
    for name in ("/face.png", "/moved/me.jpg", "/face.png?size=large#top"):
        (picture,) = find_pictures([server + name])
        assert (picture.read() == read_image(face)).all()
    assert find_pictures([f"{server}/deep/me%20and%2F..%2Fyou.jpg?x=1"])[0].stem == "you"
    assert find_pictures([server])[0].stem == "picture"


def test_an_address_cannot_lead_to_a_file_of_this_machine(server: str) -> None:
    with pytest.raises(ImageError):
        find_pictures([f"{server}/elsewhere"])[0].read()


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/absent.png", "answers 404"),
        ("/cut.png", "bytes too early"),
        ("/drip.png", "takes more than"),
        ("/silent", "timed out"),
    ],
)
def test_a_server_that_fails_is_told_in_a_sentence(
    path: str, sentence: str, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "TIMEOUT", 0.5)
    monkeypatch.setattr(pictures, "LONGEST_DOWNLOAD", 1.0)
    with pytest.raises(ImageError, match=sentence) as error:
        find_pictures([server + path])[0].read()
    assert server in str(error.value)


def test_a_server_that_sends_without_end_is_stopped(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "LARGEST_DOWNLOAD", 1000)
    with pytest.raises(ImageError, match="it has more than 0.000954 MiB"):
        find_pictures([f"{server}/face.png"])[0].read()


def test_nobody_at_an_address_is_told_in_a_sentence() -> None:
    with pytest.raises(ImageError, match="check the address"):
        find_pictures(["http://127.0.0.1:9/face.png"])[0].read()


@pytest.mark.parametrize("name", ["ftp://host/x.png", "file:///etc/passwd", "rtsp://camera", "s3://bucket/x.png"])
def test_an_address_of_another_kind_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="use http or https"):
        find_pictures([name])


@pytest.mark.parametrize("name", ["http://[::1/x.png", "http://host:port/x", "http://", "https://a b/c"])
def test_an_address_that_is_none_is_told_in_a_sentence(name: str) -> None:
    with pytest.raises((SettingsError, ImageError)):
        find_pictures([name])[0].read()


def test_a_folder_and_a_pattern_give_their_pictures_in_order(face: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for name in ("b.JPG", "a.png", ".hidden.png", "notes.txt", "deep/c.png"):
        shutil.copy(face, folder / name)
    assert [p.path for p in find_pictures([str(folder)])] == [folder / "a.png", folder / "b.JPG"]
    assert [p.path for p in find_pictures([f"{folder}/*.png"])] == [folder / "a.png"]
    assert [p.stem for p in find_pictures([f"{folder}/**/*.png"])] == ["a", "c"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(face: Path, tmp_path: Path) -> None:
    odd = tmp_path / "me[1].png"
    shutil.copy(face, odd)
    assert [p.path for p in find_pictures([str(odd)])] == [odd]


def test_a_folder_or_a_pattern_without_pictures_says_so(tmp_path: Path, refused: Callable[..., str]) -> None:
    assert "holds no picture" in refused("predict", tmp_path)
    assert "no file matches" in refused("predict", tmp_path / "*.png")
    assert "give - once" in refused("predict", "-", "-")


def test_names_are_told_apart_whatever_their_order() -> None:
    def named(*stems: str) -> list[str]:
        return output_names([pictures.Picture(stem, None, stem) for stem in stems], ".png")

    assert named("a", "b") == ["a.png", "b.png"]
    assert named("a", "a", "a") == ["a.png", "a-2.png", "a-3.png"]
    assert named("a", "A") == ["a.png", "A-2.png"]  # on many disks these are one file
    assert named("a", "a", "a-2") == ["a.png", "a-3.png", "a-2.png"]


def test_the_standard_input_is_a_picture(face: Path, tmp_path: Path, weights: Path) -> None:
    command = [sys.executable, "-m", "ldeq", "predict", "-", "--cropped", "--model", str(weights), "-o", str(tmp_path / "out")]
    with face.open("rb") as file:
        done = subprocess.run(command, stdin=file, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr.startswith("note: the model w has no calibration") and done.stderr.count("\n") == 1
    assert (tmp_path / "out" / "stdin.png").is_file()
    done = subprocess.run(command, input="no picture", capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "skipped: cannot read the picture from the standard input" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_terminal_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True, buffer=io.BytesIO()))
    assert "is a terminal; write: ldeq predict - < a.jpg" in refused("predict", "-")


def test_an_address_as_the_command_takes_it(
    server: str, tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "out.json"
    address = f"{server}/face.png"
    command = ["predict", address, f"{server}/absent", "--cropped", "--model", str(weights), "--json", str(data)]
    assert main(command) == 2
    assert "answers 404" in capsys.readouterr().err
    assert [image["image"] for image in json.loads(data.read_text())["images"]] == [address]


def test_no_picture_at_all_is_a_sentence() -> None:
    with pytest.raises(SettingsError, match="no picture was named; give at least one"):
        find_pictures([])
