"""Landmarks of one's own, from a table to a prediction, as docs/own-landmarks.md shows it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from ldeq import Landmarker
from ldeq.cli import main
from ldeq.data import (
    WFLW98,
    DataError,
    FaceRecord,
    FaceSet,
    layout_document,
    layout_from,
    open_faces,
    write_coco,
    write_csv,
    write_image,
    write_pts,
)
from ldeq.engine import SettingsError, Trainer
from ldeq.engine.settings import TrainSettings
from ldeq.engine.weights import load_pretrained

Make = Callable[..., TrainSettings]
DOCUMENT = Path(__file__).parents[2] / "docs" / "own-landmarks.md"

# Eyes, nose and corners of the mouth among the 98.
FIVE = [96, 97, 54, 76, 82]


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)


def draw(folder: Path, count: int, size: int = 96) -> list[np.ndarray]:
    """Drawn faces as pictures in a folder, and their 98 landmarks."""
    drawn = open_faces(f"synthetic:{count}#size={size}")
    for i in range(count):
        write_image(folder / f"face{i:03d}.png", drawn.read(i))
    return [drawn.record(i).points for i in range(count)]


def test_the_example_of_the_document_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    layout, settings = blocks("yaml")
    header = blocks("csv")[0].splitlines()[0]
    points = draw(tmp_path / "my-faces", 10)
    rows = [
        ",".join([f"face{i:03d}.png", *(f"{v:.2f}" for v in p[FIVE].ravel()), "test" if i % 5 == 1 else "train"])
        for i, p in enumerate(points)
    ]
    (tmp_path / "my-faces" / "layout.yaml").write_text(layout)
    (tmp_path / "my-faces" / "labels.csv").write_text("\n".join([header, *rows]) + "\n")
    (tmp_path / "train.yaml").write_text(settings)
    commands = [shlex.split(line)[1:] for line in blocks("bash")[0].splitlines()]
    assert [command[0] for command in commands] == ["data", "train", "predict"]
    assert main(commands[0]) == 0, capsys.readouterr().out
    quick = ["--set", "run.epochs=1", "--set", "run.batch=4", "--set", "run.device=cpu", "--set", "data.workers=0"]
    assert main([*commands[1], *quick]) == 0
    told = capsys.readouterr().out
    assert re.search(r"start: \d+ of \d+ weights of small-68; drawn at random: .*cell\.head\.weight", told)
    assert main([*commands[2], "--json", "out.json"]) == 0
    (face,) = json.loads((tmp_path / "out.json").read_text())["images"][0]["faces"]
    assert np.shape(face["points"]) == (5, 2)
    assert (tmp_path / "out.png").is_file()
    # The weights carry the layout with them.
    assert Landmarker.load("runs/my-five/best.safetensors").layout == layout_from(yaml.safe_load(layout), "")


@pytest.mark.parametrize("kind", ["csv", "coco", "pts"])
def test_a_model_of_106_points_is_trained_saved_and_used(kind: str, make_settings: Make, tmp_path: Path) -> None:
    document = layout_document(WFLW98)
    document.update(name="mine-106", landmarks=106, parts={}, openings={})
    layout, folder = layout_from(document, "here"), tmp_path / "faces"
    points = draw(folder, 8, 64)
    # Eight more in the middle of the face, which are their own mirror images.
    more = [np.concatenate([p, p[51] + np.linspace(0, 1, 8)[:, None] * (p[16] - p[51])]).astype(np.float32) for p in points]
    faces = FaceSet("mine", layout, [FaceRecord(folder / f"face{i:03d}.png", p) for i, p in enumerate(more)])
    (folder / "layout.yaml").write_text(json.dumps(document))
    spec = f"{kind}:{folder}"
    if kind == "csv":
        write_csv(folder / "labels.csv", faces)
    elif kind == "coco":
        spec = f"coco:{write_coco(folder / 'labels.json', faces)}"
    else:
        for record in faces.records:
            write_pts(record, folder / f"{record.image.stem}.pts")  # type: ignore[union-attr]
    settings = make_settings(data={"train": [spec], "val": [spec]}, model={"landmarks": 106}, epochs=1)
    result = Trainer(settings).fit(None)
    assert result is not None
    assert "the layout's normaliser (landmarks 60, 72)" in result.protocol
    lm = Landmarker.load(tmp_path / "run" / "best.safetensors")
    assert lm.layout == layout
    (found,) = lm(str(folder / "face000.png"), cropped=True)
    assert found.points.shape == (106, 2)
    # Training goes on from its own checkpoint, whose layout is read back, too.
    checkpoint = sorted((tmp_path / "run").glob("step-*.safetensors"))[-1]
    assert load_pretrained(checkpoint).layout == layout


def test_a_start_of_other_landmarks_gives_all_that_does_not_depend_on_them(make_settings: Make, tmp_path: Path) -> None:
    first = Trainer(make_settings(out=str(tmp_path / "first"), epochs=1))
    first.fit(None)
    weights = tmp_path / "first" / "best.safetensors"
    begin = load_pretrained(weights).model.state_dict()
    folder = tmp_path / "faces"
    points = draw(folder, 8, 64)
    (folder / "layout.yaml").write_text(blocks("yaml")[0])
    five = layout_from(yaml.safe_load(blocks("yaml")[0]), "")
    records = [FaceRecord(folder / f"face{i:03d}.png", p[FIVE]) for i, p in enumerate(points)]
    write_csv(folder / "labels.csv", FaceSet("x", five, records))
    own = {"train": [f"csv:{folder}"], "val": []}
    settings = make_settings(out=str(tmp_path / "second"), data=own, model={"landmarks": 5}, start=str(weights))
    plain = make_settings(out=str(tmp_path / "third"), data=own, model={"landmarks": 5})
    now, fresh = Trainer(settings).model.state_dict(), Trainer(plain).model.state_dict()
    for name, value in now.items():
        if name == "deq.cell.mix.0.weight":
            torch.testing.assert_close(value[:, 5:], begin[name][:, 98:])
            torch.testing.assert_close(value[:, :5], fresh[name][:, :5])
        elif name.startswith("deq.cell.head."):
            torch.testing.assert_close(value, fresh[name])
        elif not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(value, begin[name])
    with pytest.raises(SettingsError, match=r"has other layers than model \(.* is of another shape\)"):
        Trainer(make_settings(out=str(tmp_path / "fourth"), data=own, model={"landmarks": 5, "width": 24}, start=str(weights)))


def test_weights_with_a_damaged_layout_end_in_a_sentence(make_settings: Make, tmp_path: Path) -> None:
    from ldeq.engine.weights import layout_entries, layout_in

    five = layout_from(yaml.safe_load(blocks("yaml")[0]), "")
    entries = layout_entries(five)
    assert layout_in(json.loads(json.dumps(entries)), tmp_path) == five
    assert set(layout_entries(WFLW98)) == {"layout"}
    entries["layout_definition"]["mirror"] = [[0, 9]]
    with pytest.raises(DataError, match=r"w.safetensors is no layout: mirror: there is no landmark 9"):
        layout_in(entries, Path("w.safetensors"))


@pytest.mark.parametrize("kind", ["csv", "coco"])
def test_a_start_from_the_shipped_weights_learns_other_landmarks_in_seconds(kind: str, tmp_path: Path) -> None:
    """Five points from a table and 106 from COCO keypoints: the commands of the document, and an error that falls."""
    folder = tmp_path / "faces"
    points = draw(folder, 12, 128)
    if kind == "csv":
        document, chosen = yaml.safe_load(blocks("yaml")[0]), [p[FIVE] for p in points]
    else:
        document = layout_document(WFLW98) | {"name": "mine-106", "landmarks": 106, "parts": {}, "openings": {}}
        # Eight more in the middle of the face, which are their own mirror images.
        middle = [p[51] + np.linspace(0, 1, 8)[:, None] * (p[16] - p[51]) for p in points]
        chosen = [np.concatenate([p, more]).astype(np.float32) for p, more in zip(points, middle, strict=True)]
    layout = layout_from(document, "here")
    (folder / "layout.yaml").write_text(yaml.safe_dump(document))
    faces = FaceSet("mine", layout, [FaceRecord(folder / f"face{i:03d}.png", p) for i, p in enumerate(chosen)])
    spec = f"csv:{write_csv(folder / 'l.csv', faces)}" if kind == "csv" else f"coco:{write_coco(folder / 'l.json', faces)}"
    settings = {
        "model": {"preset": "small", "landmarks": layout.count},
        "data": {"train": [spec], "val": [spec], "workers": 0, "cache": True, "augmentation": "none"},
        "optim": {"ema": 0.0, "lr": 5e-3, "warmup": 0.2},
        "run": {"out": str(tmp_path / "run"), "start": "small-68", "epochs": 8, "batch": 4, "log_every": 1, "device": "cpu"},
    }
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(settings))
    assert main(["train", str(tmp_path / "train.yaml")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    errors = [line["nme"] for line in lines if "val" not in line]
    assert len(errors) == 24
    assert np.mean(errors[-3:]) < 0.5 * errors[0]
    target = tmp_path / "out.json"
    model = ["--model", str(tmp_path / "run" / "best.safetensors"), "--cropped", "--json", str(target)]
    assert main(["predict", str(folder / "face000.png"), *model]) == 0
    (face,) = json.loads(target.read_text())["images"][0]["faces"]
    found = np.array(face["points"])
    assert found.shape == (layout.count, 2)
    # Points of their own, and not the middle of the face many times.
    assert len(np.unique(found.round(1), axis=0)) > 0.8 * layout.count
