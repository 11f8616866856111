"""Commands as a user types them, and the sentences that answer mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import yaml

from ldeq import __version__
from ldeq.cli import main
from ldeq.cli.demo_folder import check_folder, prepare_folder
from ldeq.data import load_wflw, open_faces


def test_the_installed_program_starts_from_any_folder(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "ldeq", "--version"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"ldeq {__version__}"


def test_doctor_tells_what_is_there_and_why_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    for word in ("torch", "backends", "Haar", "small-68", "research"):
        assert word in told
    assert main(["doctor", "--json"]) == 0
    findings = json.loads(capsys.readouterr().out)
    assert findings["backends"]["torch"] == "available"
    assert all(reason for reason in findings["backends"].values())


def test_predict_draws_and_writes_points(face: Path, tmp_path: Path) -> None:
    out, data = tmp_path / "deep" / "out.jpg", tmp_path / "out.json"
    assert main(["predict", str(face), "-o", str(out), "--json", str(data), "--box", "60,60,190,200"]) == 0
    (image,) = json.loads(data.read_text())["images"]
    (record,) = image["faces"]
    assert len(record["points"]) == 68
    assert len(record["std"]) == 68
    drawn, plain = cv2.imread(str(out)), cv2.imread(str(face))
    assert drawn.shape == plain.shape
    assert (cv2.absdiff(drawn, plain) > 60).sum() > 200


def test_predict_skips_what_it_cannot_read_and_says_so(face: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    absent = tmp_path / "absent.jpg"
    assert main(["predict", str(absent), str(face), "--cropped", "-o", str(tmp_path / "out")]) == 2
    told = capsys.readouterr()
    assert "absent.jpg" in told.err
    assert (tmp_path / "out" / "face.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["predict", "x.png", "--box", "1,2,3"], "--box takes four numbers"),
        (["predict", "x.png", "--box", "5,2,3,4"], "x1 < x2"),
        (["predict", "a.png", "b.png", "-o", "c.jpg"], "give a folder for 2 pictures"),
        (["predict", "x.png", "--model", "large-68"], "is no shipped model (fast-68, small-68, small-98, small-98-drawn)"),
        (["eval", "small-68", "--data", "300x:/tmp"], "did you mean 300w?"),
        (["eval", "small-68", "--data", "300w:/nowhere"], "/nowhere"),
        (["train", "/nowhere/config.yaml"], "check the path"),
        (["data", "check", "wflw", "/nowhere"], "/nowhere"),
    ],
)
def test_mistakes_are_answered_in_one_sentence(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    told = capsys.readouterr().err.strip()
    assert told.startswith("error: ")
    assert sentence in told
    assert "\n" not in told


def test_an_unknown_configuration_key_names_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("run: {epoch: 3}\n")
    assert main(["train", str(config)]) == 2
    assert "unknown setting run.epoch; did you mean run.epochs?" in capsys.readouterr().err


def test_train_then_eval_then_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.yaml"
    document = {
        "model": {"preset": "tiny", "landmarks": 98, "image_size": 32, "width": 16, "depth": 1, "groups": 4},
        "data": {"train": ["synthetic:8#size=48"], "val": [], "workers": 0},
        "run": {"out": str(tmp_path / "run"), "epochs": 1, "batch": 4},
    }
    config.write_text(yaml.safe_dump(document))
    assert main(["train", str(config), "--set", "optim.lr=1e-3"]) == 0
    (step,) = (tmp_path / "run").glob("step-*.safetensors")
    assert main(["eval", str(step), "--data", "synthetic:5#size=48", "--report", str(tmp_path / "report")]) == 0
    told = capsys.readouterr().out
    assert "Protocol: synthetic" in told
    assert "| full |" in told
    assert (tmp_path / "report" / "worst.png").is_file()
    assert main(["train", str(config)]) == 2
    assert "go on with --resume auto" in capsys.readouterr().err
    assert main(["train", str(config), "--set", "optim.lr=1e-3", "--set", "run.epochs=2", "--resume", "auto"]) == 0
    assert "resumed from" in capsys.readouterr().out
    # The name of a checkpoint alone is that of the run, wherever the command is called.
    arguments = ["--set", "optim.lr=1e-3", "--set", "run.epochs=2", "--resume", step.name]
    assert main(["train", str(config), *arguments]) == 0
    assert f"resumed from {step}" in capsys.readouterr().out
    assert main(["train", str(config), "--resume", "step-9.safetensors"]) == 2
    assert "step-9.safetensors" in capsys.readouterr().err


def test_eval_takes_another_budget_and_stop_and_counts_evaluations(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["eval", str(weights), "--data", "synthetic:6#size=48"]
    assert main([*command, "--max-iter", "2", "--tol", "0"]) == 0
    told = capsys.readouterr().out
    assert "at most 2 + 1 evaluations, stop at relative residual 0;" in told
    assert "Cell evaluations a face: 3.00." in told
    # Nothing moves by more than the crop: every face rests after the first of nine.
    report = tmp_path / "report"
    assert main([*command, "--max-iter", "9", "--tol", "32", "--stop", "landmarks", "--report", str(report)]) == 0
    told = capsys.readouterr().out
    assert "at most 9 + 1 evaluations, stop at landmarks moving by 32 px;" in told
    assert "Cell evaluations a face: 2.00." in told
    counts = json.loads((report / "report.json").read_text())["cell_evaluations"]
    assert counts == {"mean": 2.0, "p50": 2, "p90": 2, "max": 2, "faces": {"2": 6}}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--max-iter", "0"], "max_iter must be >= 1, got 0"),
        (["--tol", "-1"], "tol must be a finite number >= 0, got -1"),
        (["--stop", "landmarks"], "--stop landmarks needs --tol"),
    ],
    ids=str,
)
def test_a_budget_or_stop_that_cannot_be_is_refused(
    weights: Path, options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(weights), "--data", "synthetic:2#size=48", *options]) == 2
    assert says in capsys.readouterr().err


def test_eval_names_the_subsets_there_are(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(weights), "--data", "synthetic:12#size=48", "--subsets", "none"]) == 0
    assert "| full |" in capsys.readouterr().out
    assert main(["eval", str(weights), "--data", "synthetic:12#size=48", "--subsets", "smile"]) == 2
    assert "no subset 'smile'; it has" in capsys.readouterr().err


def test_eval_refuses_an_unknown_subset_before_it_scores(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ldeq.cli.evaluate.evaluate", lambda *_, **__: pytest.fail("it was scored first"))
    assert main(["eval", str(weights), "--data", "synthetic:2#size=48", "--subsets", "smile"]) == 2


def test_made_faces_load_as_wflw_and_pass_the_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "faces"
    assert main(["data", "make-faces", str(folder), "--count", "5", "--size", "96"]) == 0
    assert main(["data", "make-faces", str(folder), "--count", "5"]) == 2
    assert "is not empty" in capsys.readouterr().err
    loaded, drawn = load_wflw(folder, "train"), open_faces("synthetic:5#size=96")
    assert len(loaded) == 5
    for i in range(5):
        assert abs(loaded.record(i).points - drawn.record(i).points).max() < 1e-4
        assert (loaded.read(i) == drawn.read(i)).all()
        assert dict(loaded.record(i).attributes) == {k: bool(v) for k, v in drawn.record(i).attributes.items()}
    sheet = tmp_path / "sheet.png"
    assert main(["data", "check", "wflw", str(folder), "--split", "test", "--sheet", str(sheet)]) == 0
    assert cv2.imread(str(sheet)) is not None


def test_a_short_demo_learns_and_leaves_its_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--faces", "48", "--test-faces", "6", "--epochs", "2"]) == 0
    told = capsys.readouterr().out
    assert "before training  NME" in told
    assert "after training   NME" in told
    for name in ("faces.png", "before_after.png", "worst.png", "error_curve.png", "convergence.png"):
        picture = cv2.imread(str(out / name))
        assert picture is not None
        assert picture.std() > 5
    assert (out / "tiny-98-synthetic.safetensors").is_file()
    # A second one would replace the first, and leave alone what lies beside it.
    (out / "notes.txt").write_text("mine")
    check_folder(out, ["faces.png"])
    prepare_folder(out, {})
    assert list((out / "run").iterdir()) == []
    assert (out / "notes.txt").read_text() == "mine"


def test_clips_are_made_checked_and_not_made_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("av")
    photos = tmp_path / "photos"
    assert main(["data", "make-faces", str(photos), "--count", "1", "--seed", "3"]) == 0
    make = ["data", "make-clips", "--data", f"wflw:{photos}#train", "--out", str(tmp_path / "clips"), "--part", "all"]
    assert main([*make, "--easy", "1", "--hard", "1", "--frames", "4"]) == 0
    assert (tmp_path / "clips" / "hard.txt").read_text() == "hard-000\n"
    assert main(["data", "check", "wflw-v", str(tmp_path / "clips"), "--sheet", str(tmp_path / "sheet.png")]) == 0
    assert "WFLW-V all: 2 faces" in capsys.readouterr().out
    assert main(make) != 0
    assert "is not empty" in capsys.readouterr().err
