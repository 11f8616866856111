"""``ldeq predict`` never draws over a picture that it was given, nor over one that it did not make."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ldeq.cli import main
from ldeq.landmarker import Landmarker

Refused = Callable[..., str]


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test if a command that must be refused loads its model."""

    def load(*_: object) -> Landmarker:
        raise AssertionError("the command began to work")

    monkeypatch.setattr(Landmarker, "load", load)


def two_folders(face: Path, tmp_path: Path) -> tuple[Path, Path]:
    pictures = tmp_path / "a" / "face.png", tmp_path / "b" / "face.png"
    for picture in pictures:
        picture.parent.mkdir()
        shutil.copy(face, picture)
    return pictures


def test_pictures_of_one_name_are_not_drawn_over_each_other(face: Path, tmp_path: Path, weights: Path) -> None:
    a, b = two_folders(face, tmp_path)
    third = tmp_path / "a" / "Face-2.png"
    shutil.copy(face, third)
    out, data = tmp_path / "out", tmp_path / "out.json"
    command = ["predict", str(a), str(b), str(third), "--cropped", "--model", str(weights), "-o", str(out), "--json", str(data)]
    assert main(command) == 0
    assert sorted(p.name for p in out.iterdir()) == ["Face-2.png", "face-3.png", "face.png"]
    assert [image["image"] for image in json.loads(data.read_text())["images"]] == [str(a), str(b), str(third)]
    assert main(command) == 0  # its own pictures are replaced


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("option", ["-o", "--json"])
def test_an_output_under_any_name_of_the_input_is_refused(option: str, face: Path, tmp_path: Path, refused: Refused) -> None:
    before = face.read_bytes()
    (tmp_path / "sub").mkdir()
    link, hard, up = tmp_path / "link.png", tmp_path / "hard.png", tmp_path / "sub" / ".." / "face.png"
    link.symlink_to(face)
    os.link(face, hard)
    relative = Path(os.path.relpath(face))
    for name in (face, link, hard, up, relative):
        assert f"is the picture {face} itself; choose another name" in refused("predict", face, option, name, "--cropped")
    assert face.read_bytes() == before
    assert link.is_symlink()


@pytest.mark.usefixtures("no_work")
def test_a_folder_of_pictures_is_not_drawn_over(face: Path, tmp_path: Path, refused: Refused) -> None:
    a, _ = two_folders(face, tmp_path)
    before = a.read_bytes()
    shutil.copy(face, a.with_name("other.png"))
    assert "is the picture" in refused("predict", a, a.with_name("other.png"), "-o", a.parent)
    assert "is the picture" in refused("predict", a.parent, "-o", a.parent)
    assert a.read_bytes() == before


@pytest.mark.usefixtures("no_work")
def test_a_picture_that_happens_to_bear_the_name_is_not_replaced(face: Path, tmp_path: Path, refused: Refused) -> None:
    """photo.jpg is drawn into photo.png, which may be the original."""
    photo = tmp_path / "deep" / "photo.jpg"
    photo.parent.mkdir()
    shutil.copy(face, photo)
    original = photo.with_suffix(".png")
    shutil.copy(face, original)
    before = original.read_bytes()
    assert "exists, and ldeq did not make it" in refused("predict", photo, "-o", photo.parent)
    assert original.read_bytes() == before


@pytest.mark.usefixtures("no_work")
def test_two_outputs_of_one_name_are_refused(face: Path, tmp_path: Path, refused: Refused) -> None:
    assert "is where -o goes, too" in refused("predict", face, "-o", tmp_path / "x.png", "--json", tmp_path / "x.png")
    (tmp_path / "y.gif").symlink_to(tmp_path / "x.png")
    told = refused("predict", face, "-o", tmp_path / "x.png", "--converge", tmp_path / "y.gif")
    assert "is where -o goes, too" in told


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("name", ["other.jpg", "holiday.MP4"])
@pytest.mark.parametrize("command", ["predict face --json", "predict face --labels", "export --torch-export", "export --onnx"])
def test_a_picture_that_a_shell_put_behind_an_option_is_not_replaced(
    command: str, name: str, face: Path, tmp_path: Path, refused: Refused
) -> None:
    photo = tmp_path / name
    photo.write_bytes(b"a photo")
    form = ["--format", "csv"] if "--labels" in command else []
    words = [face if word == "face" else word for word in command.split()]
    assert "would replace a picture or a video" in refused(*words, photo, *form)
    assert photo.read_bytes() == b"a photo"


@pytest.mark.usefixtures("no_work")
def test_an_address_as_an_output_is_refused(face: Path, tmp_path: Path, monkeypatch: Any, refused: Refused) -> None:
    monkeypatch.chdir(tmp_path)
    for option in ("-o", "--json", "--labels"):
        assert "is an address" in refused("predict", face, option, "https://host/x.csv")
    assert not (tmp_path / "https:").exists()


@pytest.mark.usefixtures("no_work")
def test_the_model_is_not_replaced(face: Path, weights: Path, refused: Refused) -> None:
    assert "is the file of the model" in refused("predict", face, "--model", weights, "--json", weights)


@pytest.mark.usefixtures("no_work")
def test_an_output_that_cannot_be_written_is_refused_before_the_work(face: Path, tmp_path: Path, refused: Refused) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for option in ("--json", "-o", "--converge"):
        suffix = {"--json": ".json", "-o": ".png", "--converge": ".gif"}[option]
        folder = tmp_path / f"folder{suffix}"
        folder.mkdir()
        if option != "-o":  # a folder is where -o puts its pictures
            assert "it is a folder; give the name of a file" in refused("predict", face, option, folder)
        below = face / "deep" / f"x{suffix}"
        assert f"would lie below {face}, which is a file" in refused("predict", face, option, below)
        circle = tmp_path / f"circle{suffix}"
        circle.symlink_to(circle)
        assert "is a link that leads back to itself" in refused("predict", face, option, circle)
        special = tmp_path / f"pipe{suffix}"
        special.symlink_to(pipe)
        assert "is a pipe" in refused("predict", face, option, special)
    assert "is a device without room" in refused("predict", face, "--json", "/dev/full")


@pytest.mark.usefixtures("no_work")
def test_a_disk_that_is_full_or_locked_is_told_before_the_work(
    face: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        write(path, b"")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    before = sorted(tmp_path.iterdir())
    assert ": the disk is full; choose another place" in refused("predict", face, "--json", tmp_path / "x.json")
    assert sorted(tmp_path.iterdir()) == before
    assert ": the disk is full; choose another place" in refused("predict", face, "-o", tmp_path / "new" / "x.png")
    assert sorted(tmp_path.iterdir()) == before


def test_points_go_through_a_link_and_into_a_device(face: Path, tmp_path: Path, weights: Path) -> None:
    link, target = tmp_path / "link.json", tmp_path / "real.json"
    link.symlink_to(target)
    command = ["predict", str(face), "--cropped", "--model", str(weights), "--json"]
    assert main([*command, str(link)]) == 0
    assert link.is_symlink()
    assert len(json.loads(target.read_text())["images"]) == 1
    assert main([*command, "/dev/null"]) == 0
    assert Path("/dev/null").is_char_device()


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-o", "out.txt"], "choose .png or .jpg"),
        (["-o", "x" * 300 + ".png"], "has more than 255 bytes"),
        (["--json", "a\0b"], "NUL"),
        (["--json", "~no_such_user_here/x"], "names a home folder that does not exist"),
        (["--json", ""], "an argument is empty"),
        (["--box", "0,0,inf,inf"], "four finite numbers"),
        (["--box", "nan,0,1,1"], "four finite numbers"),
        (["--box", "1,1,2,2", "--cropped"], "exclude each other"),
        (["--converge", "x.png"], "the name of a .gif file"),
    ],
    ids=lambda value: " ".join(value)[:20] if isinstance(value, list) else "",
)
def test_an_argument_that_cannot_be_is_refused(arguments: list[str], sentence: str, face: Path, refused: Refused) -> None:
    assert sentence in refused("predict", face, *arguments)
