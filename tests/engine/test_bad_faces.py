"""A list with faces that cannot be used: training goes on with the others and says which were skipped, and why."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ldeq.cli import main
from ldeq.data import open_faces, write_wflw
from ldeq.engine import Trainer
from ldeq.engine.settings import TrainSettings

Make = Callable[..., TrainSettings]


@pytest.fixture
def wflw(tmp_path: Path) -> tuple[Path, Path]:
    """The folder of twelve drawn faces, and their list."""
    return tmp_path / "wflw", write_wflw(tmp_path / "wflw", "train", open_faces("synthetic:12#size=64"))


def test_a_label_too_large_for_float32_does_not_end_in_nan(
    make_settings: Make, wflw: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root, path = wflw
    rows = [row.split() for row in path.read_text().splitlines()]
    rows[2][10] = "1e39"
    rows[5][:196] = ["30.5"] * 196
    rows[7][100] = "nan"
    # Only the picture tells that this is far outside.
    rows[9][20] = "9000"
    path.write_text("".join(" ".join(row) + "\n" for row in rows))
    settings = make_settings(data={"train": [f"wflw:{root}"], "val": []}, epochs=1, batch=3)
    trainer = Trainer(settings)
    trainer.fit(None)
    told = capsys.readouterr().out
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())
    assert trainer.train_step.bad_steps == 0
    assert "4 faces could not be used" in told
    assert f"{path}, line 3: landmark 5 is not finite in float32" in told
    assert f"{path}, line 6: all landmarks lie at one point, (30.5, 30.5)" in told
    assert f"{path}, line 8: landmark 50 is not finite in float32" in told
    assert "000009.png: landmark 10 lies at (9000, " in told
    assert "far outside the picture of 64 x 64 pixels" in told


def test_a_picture_that_does_not_fit_into_memory_is_one_skipped_face(
    make_settings: Make, wflw: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    root, _ = wflw
    picture = root / "WFLW_images" / "train" / "000004.png"
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0))
    picture.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b""))
    Trainer(make_settings(data={"train": [f"wflw:{root}"], "val": []}, epochs=1)).fit(None)
    told = capsys.readouterr().out
    assert "1 face could not be used" in told
    assert "000004.png: it has " in told and "more than the 110 million" in told
    # The reader of a user's own pictures is the same.
    assert main(["predict", str(picture), "--json", str(root / "out.json")]) == 2
    assert "more than the 110 million" in capsys.readouterr().err


def test_a_check_of_a_list_with_a_bad_face_names_it(wflw: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    root, path = wflw
    rows = [row.split() for row in path.read_text().splitlines()]
    rows[2][10] = "1e39"
    path.write_text("".join(" ".join(row) + "\n" for row in rows))
    assert main(["data", "check", f"wflw:{root}"]) == 1
    assert f"{path}, line 3: landmark 5 is not finite in float32" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data.replace(b"train/000003.png", b"/etc/passwd"), "line 4 of"),
        (lambda data: data.replace(b"train/000003.png", b"train/00\xe93.png"), "is 0xe9, which is not UTF-8"),
        (lambda data: data.replace(b"train/000003.png", b"train/00\x003.png"), "holds a NUL byte"),
    ],
)
def test_a_damaged_list_ends_every_command_in_a_sentence(
    damage: Callable[[bytes], bytes], message: str, wflw: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root, path = wflw
    path.write_bytes(damage(path.read_bytes()))
    for command in (["data", "check", f"wflw:{root}"], ["eval", "small-68", "--data", f"wflw:{root}#train"]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert message in error and str(path) in error and error.count("\n") == 1
