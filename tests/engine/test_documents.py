"""Whatever a file of weights or a checkpoint says, it is read, or refused in a sentence."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from ldeq.data import get_layout
from ldeq.engine import CheckpointError, Trainer, TrainSettings, checkpoint, load_pretrained
from ldeq.engine.console import Console
from ldeq.engine.documents import training_document
from ldeq.engine.settings import from_mapping, to_mapping
from ldeq.engine.weights import save_weights
from ldeq.models import LDEQ

Make = Callable[..., TrainSettings]

SETTINGS = from_mapping(
    {"model": {"preset": "tiny", "landmarks": 68, "image_size": 16, "width": 8, "width_increment": 0, "depth": 1, "groups": 1}}
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_weights(path, LDEQ(SETTINGS.model), get_layout(68), SETTINGS, {"card": {"data": "none"}})
    return path


def training(**changes: Any) -> dict[str, Any]:
    return {
        "format": 2,
        "kind": "training",
        "settings": to_mapping(SETTINGS),
        "layout": "ibug-68",
        "position": {"epoch": 1, "step_in_epoch": 0, "steps_per_epoch": 5},
        "world": 1,
        "best": None,
        "bad_steps": 0,
        "skipped": {},
        **changes,
    }


def rewritten(path: Path, weights: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """The weights under a changed document, with a checksum that fits."""
    groups, document = checkpoint.load(weights)
    changed = change(document)
    document = document if changed is None else changed
    if isinstance(document, dict):
        document.pop("format", None)
        checkpoint.save(path, groups, document)
        return path
    tensors = {f"{g}/{n}": t for g, ts in groups.items() for n, t in ts.items()}
    path.write_bytes(safetensors.torch.save(tensors, metadata={"ldeq": json.dumps(document)}))
    return path


def model_with(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document["model"].update(fields)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: [1, 2], "its document is a list where a mapping is due"),
        (lambda d: "text", "its document is a str where a mapping is due"),
        (lambda d: d.pop("model") and None, "its document lacks model"),
        (lambda d: d.pop("layout") and None, "its document lacks layout"),
        (lambda d: d.pop("crop") and None, "its document lacks crop"),
        (lambda d: d["crop"].pop("scale") and None, "its document lacks crop.scale"),
        (lambda d: d["model"].pop("width") and None, "its document lacks model.width"),
        (lambda d: d.update(kind="picture"), "kind: input should be 'weights', found 'picture'"),
        (lambda d: d.update(kind=None), "kind: "),
        (lambda d: d.update(temper="hot"), "its document holds temper, which this version does not know"),
        (lambda d: d.update(layout="mask-7"), "its layout is 'mask-7', known are"),
        (lambda d: d.update(layout=68), "layout: input should be a valid string, found 68"),
        (lambda d: d["crop"].update(rule="circle"), "crop.rule is 'circle', known are"),
        (lambda d: d["crop"].update(scale="1.2"), "crop.scale: input should be a valid number, found '1.2'"),
        (lambda d: d["crop"].update(scale=-1.0), "crop.scale: input should be greater than 0"),
        (lambda d: d["crop"].update(scale=1e9), "crop.scale: input should be less than or equal to 100"),
        (lambda d: d["crop"].update(scale=float("nan")), "crop.scale: input should be"),
        (model_with(widht=8), "model holds 'widht', which this version does not know (did you mean width?)"),
        (model_with(width="8 channels"), "model.width: Input should be a valid integer"),
        (model_with(width=[8]), "model.width: Input should be a valid integer"),
        (model_with(width=10**30), "model.width is an integer of more than 20 digits, more than 16384"),
        (model_with(width=16000, width_increment=16000), "does not fit its own configuration"),
        (model_with(landmarks=10**7), "model.landmarks is 10000000, more than 10000"),
        (model_with(depth=10**6), "model.depth is 1000000, more than 10"),
        (model_with(image_size=10**9), "model.image_size is 1000000000, more than 8192"),
        (model_with(max_iter=10**12), "model.max_iter is 1000000000000, more than 1000000"),
        (model_with(max_iter=-1), "max_iter must be >= 1, got -1"),
        (model_with(solver="newton"), "unknown solver 'newton'"),
        (lambda d: d.update(model=[1]), "model: input should be a valid dictionary, found [1]"),
    ],
)
def test_a_document_of_weights_that_cannot_be_used_is_refused_in_a_sentence(
    weights: Path, tmp_path: Path, change: Callable[[dict[str, Any]], Any], sentence: str
) -> None:
    path = rewritten(tmp_path / "changed.safetensors", weights, change)
    with pytest.raises(CheckpointError) as error:
        load_pretrained(path)
    told = str(error.value)
    assert sentence in told
    assert str(path) in told and "\n" not in told and len(told) < 400
    assert "damaged" in told or "update ldeq" in told


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"position": {"epoch": 1, "step_in_epoch": 0}}, "lacks position.steps_per_epoch"),
        ({"position": {"epoch": -1, "step_in_epoch": 0, "steps_per_epoch": 5}}, "position.epoch: input should be greater"),
        ({"position": {"epoch": 1, "step_in_epoch": 0, "steps_per_epoch": 0}}, "position.steps_per_epoch: input should be"),
        ({"position": {"epoch": 10**40, "step_in_epoch": 0, "steps_per_epoch": 5}}, "position.epoch: input should be less"),
        ({"position": {"epoch": "1", "step_in_epoch": 0, "steps_per_epoch": 5}}, "position.epoch: input should be a valid int"),
        ({"world": True}, "world: input should be a valid integer, found True"),
        ({"best": "low"}, "best: input should be a valid number, found 'low'"),
        ({"skipped": [1]}, "skipped: input should be a valid dictionary"),
        ({"settings": {"model": {"landmarks": 10**8}}}, "settings.model.landmarks is 100000000, more than 10000"),
        ({"settings": {"optim": {"lr": -1.0}}}, "settings: optim.lr must be > 0"),
        ({"settings": {"unknown": 1}}, "settings: unknown setting unknown"),
        ({"saved": -3}, "saved: input should be greater"),
        ({"colour": "red"}, "holds colour, which this version does not know"),
        ({"kind": "weights"}, "holds weights only, and a run cannot go on from it"),
    ],
)
def test_a_document_of_a_checkpoint_that_cannot_be_used_is_refused_in_a_sentence(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CheckpointError) as error:
        training_document(Path("step-00000001.safetensors"), training(**change))
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_document_of_an_older_version_is_read() -> None:
    document, settings = training_document(Path("x"), training(format=1))
    assert (document.saved, document.validation_due) == (0, False)
    assert settings == SETTINGS


def test_weights_with_a_fact_that_no_reader_knows_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds mood, which this version does not know"):
        save_weights(tmp_path / "w.safetensors", LDEQ(SETTINGS.model), get_layout(68), SETTINGS, {"mood": "good"})
    assert not (tmp_path / "w.safetensors").exists()


def test_weights_without_a_tensor_or_with_one_of_another_shape_are_refused(weights: Path, tmp_path: Path) -> None:
    groups, document = checkpoint.load(weights)
    document.pop("format")
    name = next(iter(groups["model"]))
    path = tmp_path / "w.safetensors"
    checkpoint.save(path, {"model": {n: t for n, t in groups["model"].items() if n != name}}, document)
    with pytest.raises(CheckpointError, match="does not fit its own configuration: missing"):
        load_pretrained(path)
    checkpoint.save(path, {"model": {**groups["model"], name: torch.zeros(3)}}, document)
    with pytest.raises(CheckpointError, match=r"has shape \(3,\) and the configuration asks for"):
        load_pretrained(path)
    checkpoint.save(path, {"other": groups["model"]}, document)
    with pytest.raises(CheckpointError, match="does not fit its own configuration"):
        load_pretrained(path)


def test_a_newer_format_asks_for_an_update(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", 3)
        path = rewritten(tmp_path / "new.safetensors", weights, lambda d: None)
    with pytest.raises(CheckpointError, match=r"checkpoint format 3, this version reads 2; update ldeq"):
        load_pretrained(path)


def test_one_changed_bit_anywhere_is_found(tmp_path: Path) -> None:
    path = tmp_path / "step-00000001.safetensors"
    checkpoint.save(path, {"model": {"a": torch.arange(9.0), "b": torch.ones(3)}}, training())
    whole = path.read_bytes()
    rng = random.Random(0)
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(damaged))
        with pytest.raises(CheckpointError):
            checkpoint.load(path)
    path.write_bytes(whole)
    checkpoint.load(path)


@pytest.mark.parametrize("where", ["document", "counter", "tensors"])
def test_a_run_goes_on_from_the_file_before_a_damaged_one_with_a_word(
    make_settings: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    def settings(epochs: int) -> TrainSettings:
        return make_settings(epochs=epochs, data={"train": ["synthetic:4#size=48"], "val": []}, optim={"schedule": "constant"})

    Trainer(settings(2), Console(False)).fit(None)
    newest = tmp_path / "run" / "step-00000002.safetensors"
    data = bytearray(newest.read_bytes())
    place = {"document": data.index(b"epochs"), "counter": data.index(b'saved\\": 2') + 9, "tensors": len(data) - 5}[where]
    data[place] ^= 2  # 2 becomes 0: the file says that it is older than it is
    newest.write_bytes(bytes(data))
    Trainer(settings(3)).fit("auto")
    told = capsys.readouterr().out
    assert "step-00000002.safetensors is no readable checkpoint" in told
    assert "going on from the one before it" in told
    assert "resumed from" in told and "at step 1 of 3" in told


def test_weights_that_are_loaded_in_inference_mode_can_be_trained() -> None:
    with torch.inference_mode():
        model = load_pretrained("small-68").model
    assert not any(p.is_inference() for p in model.parameters())
    model.requires_grad_(True)  # what inference tensors refuse
