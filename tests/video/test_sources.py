"""What may stand in the place of a video: pictures, patterns, addresses; and sentences for what may not."""

from __future__ import annotations

import functools
import http.server
import json
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import drawn, moving, read_clip, tight, write_clip

from ldeq.cli import main
from ldeq.data import write_image
from ldeq.data.containers import open_container
from ldeq.video.reading import VideoError
from ldeq.video.sources import camera_rate, open_video, without_password


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Pictures 1, 2, 10, 11 with that much red, and files that are none."""
    folder = tmp_path / "frames"
    for number in (1, 2, 10, 11):
        write_image(folder / f"f{number}.png", np.full((48, 64, 3), (20 * number, 0, 0), np.uint8))
    (folder / ".hidden.png").write_bytes(b"x")
    (folder / "notes.txt").write_text("x")
    return folder


def reds(name: str | Path) -> list[int]:
    with open_video(name) as video:
        return [int(frame.image[0, 0, 0]) // 20 for frame in video]


def test_a_folder_a_pattern_and_numbered_pictures_come_in_the_order_of_their_numbers(frames: Path) -> None:
    assert reds(frames) == [1, 2, 10, 11]
    assert reds(frames / "*.png") == [1, 2, 10, 11]
    assert reds(frames / "f%d.png") == [1, 2, 10, 11]
    assert reds(frames / "f%04d.png") == [1, 2, 10, 11]
    assert reds(frames / "f1*.png") == [1, 10, 11]


def test_pictures_have_the_rate_that_was_asked_for(frames: Path) -> None:
    for fps, step in ((None, 0.04), (10, 0.1), (29.97, 1 / 29.97)):
        with open_video(frames, fps) as video:
            assert [f.time for f in video] == pytest.approx([step * i for i in range(4)], rel=1e-3)
            assert (video.width, video.height, video.count) == (64, 48, 4)
    for bad in (0, -1, math.nan, math.inf):
        with pytest.raises(VideoError, match="--fps must be"):
            open_video(frames, bad)


def test_pictures_that_cannot_be_used_are_left_out_and_told(frames: Path) -> None:
    (frames / "f3.png").write_bytes(b"no picture")
    write_image(frames / "f4.png", np.zeros((20, 20, 3), np.uint8))
    with open_video(frames) as video:
        found = list(video)
    assert [round(f.time / 0.04) for f in found] == [0, 1, 4, 5]
    assert video.problem is not None and video.problem.startswith("2 of 6 pictures are left out")
    (frames / "f1.png").write_bytes(b"no picture")
    with pytest.raises(VideoError, match=r"f1\.png"):
        open_video(frames)


def test_the_command_follows_a_face_through_pictures(tmp_path: Path) -> None:
    for t, image in enumerate(moving(3, 4)):
        write_image(tmp_path / "in" / f"{t:04d}.png", image)
    box = ",".join(f"{v:.0f}" for v in tight(drawn(3)[1]))
    out, data = tmp_path / "o.mp4", tmp_path / "o.json"
    arguments = [str(tmp_path / "in" / "%04d.png"), "-o", str(out), "--json", str(data), "--box", box, "--fps", "10"]
    assert main(["video", *arguments]) == 0
    document = json.loads(data.read_text())
    assert [(f["time"], len(f["faces"])) for f in document["frames"]] == [(0.0, 1), (0.1, 1), (0.2, 1), (0.3, 1)]
    assert len(read_clip(out)) == 4


def test_no_picture_of_a_sequence_is_written_over(frames: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.read_bytes() for p in frames.iterdir()}
    assert main(["video", str(frames), "--json", str(frames / "f2.png")]) == 2
    assert "choose another name" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in frames.iterdir()} == before


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("-", "cannot be read from the standard input; save it as a file"),
        ("0", "ldeq webcam --camera 0"),
        ("/dev/video3", "ldeq webcam --camera 3"),
        ("/dev/null", "ldeq webcam --camera 0"),
        ("ftp://host/a.mp4", "is no address of a video; use one of http"),
        ("file:///etc/passwd", "is no address of a video"),
        ("concat:a.mp4|b.mp4", "there is no such file"),
        ("absent/%04d.png", "there is no picture"),
        ("absent/*.png", "no file matches"),
        ("absent.png", "give a folder, a pattern"),
        ("empty", "holds no picture"),
        ("http://127.0.0.1:9/a.mp4", "check the address and the network"),
        ("rtsp://me:secret@127.0.0.1:9/live", "check the address and the network"),
    ],
)
def test_what_is_no_video_is_a_sentence_that_says_what_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert main(["video", name, "--json", "o.json"]) == 2
    told = capsys.readouterr().err.strip()
    assert told.startswith("error: ") and sentence in told and "\n" not in told
    assert "secret" not in told
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    (tmp_path / "www").mkdir()
    handler = functools.partial(Quiet, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_video_at_an_address_is_followed(tmp_path: Path, server: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_clip(tmp_path / "www" / "a.mp4", list(moving(3, 3)), sound="aac", options={"movflags": "+faststart"})
    box = ",".join(f"{v:.0f}" for v in tight(drawn(3)[1]))
    out, data = tmp_path / "o.mp4", tmp_path / "o.json"
    assert main(["video", f"{server}/a.mp4", "-o", str(out), "--json", str(data), "--box", box]) == 0
    assert "the sound is left out" in " ".join(capsys.readouterr().out.split())
    document = json.loads(data.read_text())
    assert document["source"] == f"{server}/a.mp4"
    assert [len(f["faces"]) for f in document["frames"]] == [1] * 3


def test_passwords_in_addresses_are_not_shown() -> None:
    assert without_password("rtsp://me:secret@camera/live") == "rtsp://me:...@camera/live"
    assert without_password("https://host/a.mp4") == "https://host/a.mp4"


@pytest.mark.parametrize("reported", [-1.0, 0.0, math.nan, math.inf, 180_000.0, 0.001])
def test_a_camera_that_does_not_know_its_rate_is_taken_for_one_of_30_with_a_word(reported: float) -> None:
    rate, word = camera_rate(reported)
    assert rate == 30.0
    assert word is not None and "30 are assumed" in word
    assert camera_rate(29.97) == (29.97, None)
    assert camera_rate(240.0) == (240.0, None)


def test_titles_in_another_encoding_are_asked_for_where_pyav_asks() -> None:
    class Fake:
        __version__ = ""

        @staticmethod
        def open(path: str, **options: Any) -> dict[str, Any]:
            return options

    for version, asked in (("14.0.19", True), ("18.9", True), ("19.0.0", False), ("20.1", False)):
        Fake.__version__ = version
        assert ("metadata_errors" in open_container(Fake, "a.mp4", mode="r")) == asked
