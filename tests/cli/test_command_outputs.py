"""No command deletes or replaces what it did not make."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ldeq.cli import demo, main
from ldeq.cli.demo_folder import check_folder, prepare_folder
from ldeq.engine import SettingsError
from ldeq.engine.settings import dump, from_mapping
from ldeq.landmarker import Landmarker
from ldeq.video.landmark_files import JsonLandmarks

Refused = Callable[..., str]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- demo ---


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*_: object) -> None:
        raise AssertionError("the demo began to work")

    monkeypatch.setattr(demo, "Trainer", train)


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    "name", ["run/thesis.txt", "run/step-00000001.safetensors", "run/deep/x", "run", "faces.png", "demo.json", "worst.png"]
)
def test_the_demo_deletes_nothing_that_it_did_not_make(name: str, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text('{"made_by": "me"}')
    before = contents(tmp_path)
    assert "ldeq demo did not make" in refused("demo", "--out", tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "name", ["run/thesis.txt", "run/step-00000001-good.safetensors", "run/config.yaml.bak", "run/step-1.safetensors/x"]
)
def test_the_demo_keeps_what_was_put_into_its_own_run(name: str, tmp_path: Path) -> None:
    prepare_folder(tmp_path, {})
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("x")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(SettingsError, match="is not from ldeq demo, which would empty"):
        check_folder(tmp_path, [])
    prepare_folder(tmp_path, {})  # even unchecked
    assert (tmp_path / name).read_text() == "mine"
    assert set(before) - set(contents(tmp_path)) == {"run/config.yaml"}


def test_the_demo_does_not_follow_a_link_out_of_its_folder(tmp_path: Path) -> None:
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "demo"
    elsewhere.mkdir()
    (elsewhere / "step-00000001.safetensors").write_text("mine")
    prepare_folder(folder, {})
    (folder / "run").symlink_to(elsewhere)
    with pytest.raises(SettingsError, match="is not the folder that ldeq demo made"):
        check_folder(folder, [])
    (folder / "run").unlink()
    (folder / "run").mkdir()
    (folder / "run" / "batch.png").symlink_to(elsewhere / "step-00000001.safetensors")
    with pytest.raises(SettingsError, match="is not from ldeq demo"):
        check_folder(folder, [])
    assert contents(elsewhere) == {"step-00000001.safetensors": b"mine"}


def test_a_demo_in_the_place_of_a_file_is_refused(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "file").write_text("mine")
    assert "is a file; give the name of a folder" in refused("demo", "--out", tmp_path / "file")
    assert "which is a file" in refused("demo", "--out", tmp_path / "file" / "deep")


# --- data ---


@pytest.fixture
def data_set(tmp_path: Path) -> Path:
    folder = tmp_path / "faces"
    assert main(["data", "make-faces", str(folder), "--count", "2", "--size", "64"]) == 0
    return folder


def test_a_check_does_not_draw_over_the_data_set(data_set: Path, refused: Refused) -> None:
    before = contents(data_set)
    lists = data_set / "WFLW_annotations" / "list_98pt_rect_attr_train_test"
    for option, name in (
        ("--sheet", data_set / "WFLW_images" / "train" / "000000.png"),
        ("--sheet", data_set / "WFLW_images" / "test" / "000000.png"),
        ("--json", lists / "list_98pt_rect_attr_train.txt"),
        ("--json", lists / ".." / lists.name / "list_98pt_rect_attr_test.txt"),
    ):
        assert "would replace a file of the data set" in refused("data", "check", "wflw", data_set, option, name)
    assert contents(data_set) == before


def test_outputs_of_a_check_are_refused_before_the_pictures_are_read(data_set: Path, tmp_path: Path, refused: Refused) -> None:
    check = ["data", "check", f"wflw:{data_set}"]
    assert "choose .png or .jpg" in refused(*check, "--sheet", tmp_path / "sheet.txt")
    assert "choose .png or .jpg" in refused(*check, "--sheet", tmp_path / "sheet")
    assert "it is a folder" in refused(*check, "--json", tmp_path)
    assert "is where --sheet goes, too" in refused(*check, "--sheet", tmp_path / "x.png", "--json", tmp_path / "x.png")
    assert "--samples must be >= 1" in refused(*check, "--samples", "0")


def test_a_sheet_at_the_top_of_the_data_set_can_be_drawn_anew(data_set: Path) -> None:
    command = ["data", "check", "wflw", str(data_set), "--sheet", str(data_set / "sheet.png")]
    assert main(command) == 0
    assert main(command) == 0
    shutil.copy(data_set / "WFLW_images" / "train" / "000000.png", data_set / "sheet.png")
    assert main(command) == 2  # a picture of the user's


def test_new_data_goes_into_a_new_folder_alone(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    for command in (["make-faces", tmp_path / "full"], ["make-clips", "--data", "synthetic:2", "--out", tmp_path / "full"]):
        assert "is not empty; choose a new folder" in refused("data", *command)
    for command in (
        ["make-faces", tmp_path / "full" / "x"],
        ["make-clips", "--data", "synthetic:2", "--out", tmp_path / "full" / "x"],
    ):
        assert "is a file; give the name of a folder" in refused("data", *command)


# --- eval ---


def test_a_report_replaces_no_file_of_another_kind(weights: Path, tmp_path: Path, refused: Refused) -> None:
    report = tmp_path / "report"
    report.mkdir()
    (report / "report.md").write_text("my own report")
    command = ["eval", str(weights), "--data", "synthetic:2#size=48", "--report", str(report)]
    assert "exists, and ldeq eval did not make it" in refused(*command)
    assert contents(report) == {"report.md": b"my own report"}
    (report / "report.md").unlink()
    assert main(command) == 0
    assert main(command) == 0  # its own report is replaced
    (report / "report.json").write_text("[]")
    assert "exists, and ldeq eval did not make it" in refused(*command)


def test_a_report_that_cannot_be_written_is_refused_before_the_scoring(weights: Path, tmp_path: Path, refused: Refused) -> None:
    command = ["eval", weights, "--data", "synthetic:2#size=48", "--report"]
    assert "is a file; give the name of a folder" in refused(*command, weights)
    assert "which is a file" in refused(*command, weights / "deep")
    (tmp_path / "r" / "ced.png").mkdir(parents=True)
    assert "it is a folder" in refused(*command, tmp_path / "r")


# --- train ---


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "my.yaml"
    path.write_text(f"# my notes\nrun: {{out: {tmp_path / 'run'}}}\ndata: {{train: ['synthetic:4']}}\n")
    return path


def test_a_run_does_not_replace_the_file_that_describes_it(config: Path, tmp_path: Path, refused: Refused) -> None:
    own = tmp_path / "run" / "config.yaml"
    own.parent.mkdir()
    shutil.copy(config, own)
    assert "config.yaml is not from a run of ldeq, which would replace it; choose another run.out" in refused("train", own)
    assert own.read_bytes() == config.read_bytes()


@pytest.mark.parametrize("name", ["log.jsonl", "batch.png", "worst.png", "last.json"])
def test_a_run_replaces_no_file_of_another_program(name: str, config: Path, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("mine")
    assert "is not from a run of ldeq" in refused("train", config)
    assert contents(tmp_path / "run") == {name: b"mine"}


def test_a_run_does_not_replace_the_model_of_an_earlier_one(config: Path, tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.safetensors").write_text("weeks of work")
    (tmp_path / "run" / "config.yaml").write_text(dump(from_mapping({})))
    for resume in ([], ["--resume", "auto"]):
        assert "which a new one would replace; choose another run.out" in refused("train", config, *resume)
    assert (tmp_path / "run" / "best.safetensors").read_text() == "weeks of work"


def test_a_run_in_the_place_of_a_file_is_refused(config: Path, refused: Refused) -> None:
    assert "is a file; name a folder" in refused("train", config, "--set", f"run.out={config}")


# --- video ---


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    av = pytest.importorskip("av")
    path = tmp_path / "in.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", 25)
        stream.width = stream.height = 64
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        container.mux(stream.encode())
    return path


def test_a_video_is_not_written_over_under_any_name(clip: Path, tmp_path: Path, weights: Path, refused: Refused) -> None:
    before = clip.read_bytes()
    link, hard = tmp_path / "link.mp4", tmp_path / "hard.mp4"
    link.symlink_to(clip)
    os.link(clip, hard)
    for name in (clip, link, hard):
        for option in ("-o", "--json", "--csv"):
            assert "is the video itself" in refused("video", clip, option, name)
    assert "is the file of the model" in refused("video", clip, "--model", weights, "--csv", weights)
    (tmp_path / "in.json.partial").symlink_to(clip)
    assert "would grow as" in refused("video", clip, "--json", tmp_path / "in.json")
    assert clip.read_bytes() == before


def stop_after(frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = JsonLandmarks.write

    def write(self: JsonLandmarks, frame: int, time: float, faces: Sequence[Any]) -> None:
        original(self, frame, time, faces)
        if frame == frames - 1:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(JsonLandmarks, "write", write)


def test_a_stopped_video_replaces_no_whole_file(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, table = tmp_path / "x.json", tmp_path / "x.csv"
    command = ["video", str(clip), "--json", str(data), "--csv", str(table), "--detect-every", "100"]
    assert main(command) == 0
    before = data.read_bytes(), table.read_bytes()
    stop_after(2, monkeypatch)
    assert main(command) == 130
    assert (data.read_bytes(), table.read_bytes()) == before
    partial = json.loads((tmp_path / "x.json.partial").read_text())
    assert (partial["complete"], len(partial["frames"])) == (False, 2)


def test_a_stopped_video_without_an_older_file_keeps_what_there_is(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(2, monkeypatch)
    assert main(["video", str(clip), "--json", str(tmp_path / "x.json")]) == 130
    assert json.loads((tmp_path / "x.json").read_text())["complete"] is False


def test_a_video_that_ended_while_the_model_was_loaded_claims_no_saved_frames(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Landmarker, "load", load)
    assert main(["video", str(clip), "--json", str(tmp_path / "x.json")]) == 130
    told = "".join(capsys.readouterr())
    assert "ended at once" in told and "saved" not in told and "computed" not in told
    assert not (tmp_path / "x.json").exists()


def test_links_of_a_video_stay_and_devices_are_written_to(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("o.mp4", "o.json"):
        (tmp_path / name).symlink_to(tmp_path / "deep" / f"real-{name}")
    command = ["video", str(clip), "-o", str(tmp_path / "o.mp4"), "--json", str(tmp_path / "o.json"), "--csv", "/dev/null"]
    assert main(command) == 0
    assert sorted(os.listdir(tmp_path / "deep")) == ["real-o.json", "real-o.mp4"]
    assert (tmp_path / "o.mp4").is_symlink()
    assert (tmp_path / "o.json").is_symlink()
    assert Path("/dev/null").is_char_device()
    partial = Path("/dev/null.partial")
    left = partial.exists()
    partial.unlink(missing_ok=True)  # a fault must not outlast its run
    assert not left
