"""Cameras: what is said if there is none, and the command that follows what one sees."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from clips import moving, read_clip
from numpy.typing import NDArray

from ldeq.cli import main
from ldeq.video.camera import open_camera
from ldeq.video.reading import VideoError


@pytest.mark.parametrize(
    ("devices", "sentence"),
    [
        ([], "there is no camera 99: this machine has no {}/video*; plug one in"),
        (["video10", "video2", "video-sub"], "there is no camera 99; try --camera 2, of {0}/video2, {0}/video10"),
        (["video99"], "camera 99 gives no pictures, or another program holds it; close that program"),
        (["video99", "video3"], "another program holds it; close that program, or try --camera 3"),
        (None, "there is no camera 99, or another program holds it; close that program, or try --camera 100"),
    ],
)
def test_no_camera_is_one_sentence_and_opencv_is_silent(
    devices: list[str] | None, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ldeq.video.camera.DEVICES", tmp_path)
    monkeypatch.setattr("sys.platform", "linux" if devices is not None else "darwin")
    for name in devices or ():
        (tmp_path / name).touch()
    assert main(["webcam", "--camera", "99", "-o", str(tmp_path / "o.mp4")]) == 2
    told = capfd.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1
    assert f"{sentence.format(tmp_path)}" in told and told.endswith(", or give a file: ldeq video FILE\n")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="everything may be read by root")
def test_a_camera_that_may_not_be_read_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ldeq.video.camera.DEVICES", tmp_path)
    (tmp_path / "video99").touch(mode=0)
    assert main(["webcam", "--camera", "99", "-o", str(tmp_path / "o.mp4")]) == 2
    assert f"you may not read {tmp_path}/video99" in capfd.readouterr().err


def test_the_level_of_opencvs_log_is_put_back(capfd: pytest.CaptureFixture[str]) -> None:
    before = cv2.utils.logging.getLogLevel()
    with pytest.raises(VideoError):
        open_camera(99)
    assert cv2.utils.logging.getLogLevel() == before


class FilmedCamera:
    """A camera that sees three frames."""

    def __init__(self, number: int) -> None:
        self.frames = [cv2.cvtColor(frame, cv2.COLOR_RGB2BGR) for frame in moving(3, 3)]

    def isOpened(self) -> bool:
        return True

    def get(self, what: int) -> float:
        return 25.0

    def read(self) -> tuple[bool, NDArray[np.uint8] | None]:
        return (True, np.asarray(self.frames.pop(0), np.uint8)) if self.frames else (False, None)

    def release(self) -> None:
        self.frames = []


def test_what_a_camera_sees_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cv2.VideoCapture", FilmedCamera)
    out = tmp_path / "o.mp4"
    assert main(["webcam", "-o", str(out), "--csv", str(tmp_path / "o.csv"), "--views", "1", "--detector", "haar"]) == 0
    assert len(read_clip(out)) == 3
    assert (tmp_path / "o.csv").is_file()
