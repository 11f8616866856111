"""``ldeq video`` and ``ldeq webcam`` from the command line."""

from __future__ import annotations

import builtins
import errno
import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import drawn, moving, read_clip, tight, write_clip

from ldeq.cli import main
from ldeq.video.landmark_files import JsonLandmarks
from ldeq.video.writing import VideoWriter


def box(seed: int) -> str:
    return ",".join(f"{v:.0f}" for v in tight(drawn(seed)[1]))


def test_a_video_with_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_clip(tmp_path / "in.mp4", list(moving(3, 8)), sound="aac")
    out = tmp_path / "out"
    arguments = ["video", str(path), "-o", f"{out}/v.mp4", "--json", f"{out}/v.json", "--csv", f"{out}/v.csv", "--box", box(3)]
    assert main([*arguments, "--compare", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "RwR, 4 views x 1 evaluation + " in printed
    assert "8 frames, 8 with a face" in printed
    for stage in ("decode", "crop", "model", "each frame alone", "draw", "write", "flicker"):
        assert stage in printed
    document = json.loads((out / "v.json").read_text())
    assert document["complete"]
    assert [f["faces"][0]["reset"] for f in document["frames"]] == ["start"] + [None] * 7
    truth = drawn(3)[1][60:68].mean(0)
    eye = np.mean(document["frames"][0]["faces"][0]["points"][36:42], axis=0)
    assert np.linalg.norm(eye - truth) < 8
    frames = read_clip(out / "v.mp4")
    assert len(frames) == 8
    height, width = frames[0][1].shape[:2]
    assert width > 2 * 400 - 2
    assert height > 400
    with av.open(str(out / "v.mp4")) as container:
        assert container.streams.audio


def test_a_video_without_a_face_is_written_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_clip(tmp_path / "in.mp4", [np.full((64, 97, 3), 90, np.uint8)] * 4)
    assert (
        main(["video", str(path), "-o", str(tmp_path / "o.mp4"), "--json", str(tmp_path / "o.json"), "--smooth", "none"]) == 0
    )
    assert "no face was found" in " ".join(capsys.readouterr().out.split())
    assert len(read_clip(tmp_path / "o.mp4")) == 4
    assert [f["faces"] for f in json.loads((tmp_path / "o.json").read_text())["frames"]] == [[]] * 4


def test_ctrl_c_keeps_what_was_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_clip(tmp_path / "in.mp4", list(moving(3, 8)))
    original = JsonLandmarks.write

    def interrupt(self: JsonLandmarks, frame: int, time: float, faces: Sequence[Any]) -> None:
        original(self, frame, time, faces)
        if frame == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(JsonLandmarks, "write", interrupt)
    arguments = ["video", str(path), "-o", str(tmp_path / "o.mp4"), "--json", str(tmp_path / "o.json"), "--box", box(3)]
    assert main(arguments) == 130
    assert "stopped after 4 frames" in " ".join(capsys.readouterr().out.split())
    document = json.loads((tmp_path / "o.json").read_text())
    assert (document["complete"], len(document["frames"])) == (False, 4)
    assert len(read_clip(tmp_path / "o.partial.mp4")) == 4
    assert not (tmp_path / "o.mp4").exists()


def test_a_truncated_video_ends_with_a_warning_and_its_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_clip(tmp_path / "in.mp4", list(moving(3, 20, noise=20)), options={"movflags": "+faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    assert main(["video", str(path), "--json", str(tmp_path / "o.json"), "--box", box(3), "--smooth", "ema"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "what could be read was used" in printed
    assert 3 <= len(json.loads((tmp_path / "o.json").read_text())["frames"]) < 20


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--json", "o.json", "--smooth", "gaussian"], "looks at later frames"),
        (["--json", "o.json", "--smooth", "emma"], "did you mean ema?"),
        (["--json", "o.json", "--iters", "0"], "--iters must be >= 1"),
        (["--json", "o.json", "--detector", "yunet:absent.onnx"], "there is no YuNet model"),
        (["--json", "o.json", "--box", "1,2,3"], "--box takes four numbers"),
        (["-o", "o.gif"], "choose a name that ends in"),
        (["-o", "in.mp4"], "is the video itself"),
        (["--json", "in.mp4"], "is the video itself"),
        (["--csv", "./in.mp4"], "is the video itself"),
        (["-o", "o.mp4", "--json", "o.mp4"], "--json o.mp4 is where -o goes, too"),
        (["--json", "o.out", "--csv", "o.out"], "--csv o.out is where --json goes, too"),
        (["--json", "o.json", "--max-faces", "0"], "--max-faces must be >= 1"),
        (["--json", "o.json", "--detect-every", "-1"], "--detect-every must be >= 0"),
        (["-o", "/proc/o.mp4"], "cannot write /proc/o.mp4"),
        (["--compare", "--json", "o.json"], "--compare draws a video"),
        ([], "nothing to write"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_bad_arguments_are_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_clip(Path("in.mp4"), [np.zeros((64, 64, 3), np.uint8)] * 2)
    assert main(["video", "in.mp4", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".json") == ["in.mp4"]


def test_the_name_under_which_a_video_grows_may_be_that_of_the_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = write_clip(Path("a.partial.mp4"), [np.zeros((64, 64, 3), np.uint8)] * 2).read_bytes()
    assert main(["video", "a.partial.mp4", "-o", "a.mp4"]) == 2
    assert "would grow as a.partial.mp4, which is the video itself" in capsys.readouterr().err
    assert Path("a.partial.mp4").read_bytes() == before


def test_a_folder_in_the_place_of_an_output_is_told_before_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_clip(tmp_path / "in.mp4", [np.zeros((64, 64, 3), np.uint8)] * 2)
    for option, name in (("-o", "d.mp4"), ("--json", "d.json")):
        (tmp_path / name).mkdir()
        assert main(["video", str(path), option, str(tmp_path / name)]) == 2
        captured = capsys.readouterr()
        assert "it is a folder; give the name of a file" in captured.err
        assert "with a face" not in captured.out


def test_a_full_disk_is_a_sentence_and_the_other_files_are_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_clip(tmp_path / "in.mp4", list(moving(3, 6)))
    original = VideoWriter.write

    def full(self: VideoWriter, image: Any, time: float) -> None:
        if self.frames == 4:
            monkeypatch.setattr(self, "_container", Full(self._container))
        original(self, image, time)

    class Full:
        def __init__(self, container: Any) -> None:
            self.close = container.close

        def mux(self, packets: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(VideoWriter, "write", full)
    arguments = ["video", str(path), "-o", str(tmp_path / "o.mp4"), "--json", str(tmp_path / "o.json"), "--box", box(3)]
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert "o.partial.mp4: No space left on device; make room" in captured.err
    assert "o.json" in captured.out
    document = json.loads((tmp_path / "o.json").read_text())
    assert (document["complete"], len(document["frames"])) == (False, 4)


def test_a_box_beside_the_face_is_told_and_the_detector_takes_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_clip(tmp_path / "in.mp4", list(moving(3, 3)))
    monkeypatch.setattr("ldeq.landmarker.make_detector", lambda name: lambda image: np.array([tight(drawn(3)[1])]))
    assert main(["video", str(path), "--json", str(tmp_path / "o.json"), "--box", "900,900,950,950"]) == 0
    assert "no face in the --box" in capsys.readouterr().out
    assert [len(f["faces"]) for f in json.loads((tmp_path / "o.json").read_text())["frames"]] == [1] * 3


def test_without_pyav_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: Any, **more: Any) -> Any:
        if name == "av":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", absent)
    assert main(["video", str(tmp_path / "in.mp4"), "--json", str(tmp_path / "o.json")]) == 2
    assert 'pip install "ldeq[video]"' in capsys.readouterr().err


def test_the_webcam_looks_at_its_arguments_before_the_camera(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["webcam", "-o", str(tmp_path / "o.gif")]) == 2
    assert "choose a name that ends in" in capfd.readouterr().err
    assert main(["webcam", "-o", str(tmp_path / "o.mp4"), "--seconds", "0"]) == 2
    assert "--seconds must be > 0" in capfd.readouterr().err


def test_the_released_settings_refuse_others_beside_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_clip(tmp_path / "in.mp4", list(moving(3, 3)))
    command = ["video", str(path), "--json", str(tmp_path / "o.json"), "--box", box(3), "--released", "--smooth", "none"]
    assert main([*command, "--iters", "2"]) == 2
    assert "--released sets how RwR runs" in capsys.readouterr().err
    assert main([*command, "--no-rwr"]) == 2
    assert main(command) == 0
    assert "RwR as released" in capsys.readouterr().out
