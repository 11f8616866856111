"""Whatever weights, checkpoints, settings and overrides hold: what was asked for or one sentence, in little memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from dice import PIECES, Dice
from fuzzing import SEEDS, bounded_memory, case, fuzz, mutations
from hypothesis import given

from ldeq.data import WFLW98
from ldeq.engine import checkpoint
from ldeq.engine.documents import training_document, weights_document
from ldeq.engine.settings import TrainSettings, dump, from_mapping, read, to_mapping
from ldeq.engine.weights import layout_in, load_pretrained, save_weights
from ldeq.engine.yaml_reader import YamlError, parse_yaml
from ldeq.models import LDEQ, LDEQConfig

SETTINGS = TrainSettings(model=LDEQConfig.tiny(landmarks=98, image_size=32, width=16, depth=1, groups=4))
TRAINING = {
    "format": 2,
    "kind": "training",
    "settings": to_mapping(SETTINGS),
    "layout": "wflw98",
    "layout_definition": None,
    "position": {"epoch": 1, "step_in_epoch": 2, "steps_per_epoch": 3},
    "world": 1,
    "best": 5.5,
    "bad_steps": 0,
    "skipped": {"a.png": "why"},
    "saved": 3,
    "validation_due": False,
}


@pytest.fixture(scope="module", autouse=True)
def little_memory() -> Iterator[None]:
    with bounded_memory():
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_weights(path, LDEQ(SETTINGS.model), WFLW98, SETTINGS)
    return path


@fuzz(slower=4)
@given(seed=SEEDS)
def test_documents_of_weights(seed: int, weights: Path) -> None:
    right = checkpoint.read_document(weights)
    for dice in mutations(seed):
        document = dice.changed(right)
        with case():
            if isinstance(document, dict):
                weights_document(weights, document)
                layout_in(document, weights)


@fuzz(slower=2)
@given(seed=SEEDS)
def test_documents_of_training(seed: int, weights: Path) -> None:
    for dice in mutations(seed):
        document = dice.changed(TRAINING)
        with case():
            if isinstance(document, dict):
                training_document(weights, document)
                layout_in(document, weights)


@fuzz(slower=10)
@given(seed=SEEDS)
def test_files_of_weights_whose_document_or_tensors_changed(seed: int, weights: Path) -> None:
    """Written as ldeq writes them, with a checksum that fits."""
    right, document = checkpoint.load(weights)
    path = weights.with_name("other.safetensors")
    for dice in mutations(seed):
        tensors, other = {f"model/{name}": t for name, t in right["model"].items()}, document
        if dice.maybe():
            other = dice.changed({**document, "format": 1})
        else:
            change_a_tensor(dice, tensors)
        with case():
            if not is_written(path, tensors, other):
                continue  # no file can hold it
            load_pretrained(path)


def change_a_tensor(dice: Dice, tensors: dict[str, torch.Tensor]) -> None:
    name = dice.choice(sorted(tensors))
    shape, dtype = dice.some(0, 4, lambda: dice.randint(0, 5)), dice.choice([torch.float32, torch.int64, torch.bool])
    kind = dice.randint(0, 3)
    if kind == 0:
        tensors[name] = torch.zeros(shape, dtype=dtype)
    elif kind == 1:
        del tensors[name]
    elif kind == 2:
        tensors[f"model/{dice.piece()[:40]}"] = torch.zeros(shape)
    else:
        hostile = dice.choice([float("nan"), float("inf"), 3.4e38, 1e-45, 0.0]) if tensors[name].is_floating_point() else -1
        tensors[name] = torch.full_like(tensors[name], hostile)


def is_written(path: Path, tensors: dict[str, torch.Tensor], document: Any) -> bool:
    try:
        path.write_bytes(safetensors.torch.save(tensors, {"ldeq": json.dumps(document)}))
    except (TypeError, ValueError, UnicodeError):
        return False
    return True


@fuzz(slower=8)
@given(seed=SEEDS)
def test_damaged_files_of_weights(seed: int, weights: Path) -> None:
    data = weights.read_bytes()
    path = weights.with_name("damaged.safetensors")
    for dice in mutations(seed):
        path.write_bytes(dice.damaged(data, 200))
        with case():
            load_pretrained(path)


@fuzz(slower=12)
@given(seed=SEEDS)
def test_files_of_settings(seed: int, tmp_path: Path) -> None:
    path, right = tmp_path / "config.yaml", dump(SETTINGS)
    for dice in mutations(seed):
        path.write_bytes(dice.edited(right))
        with case():
            settings = read(path)
            assert from_mapping(to_mapping(settings)) == settings


@fuzz(slower=10)
@given(seed=SEEDS)
def test_mappings_of_settings(seed: int) -> None:
    right = to_mapping(SETTINGS)
    for dice in mutations(seed):
        with case():
            settings = from_mapping(dice.changed(right))
            assert to_mapping(from_mapping(to_mapping(settings))) == to_mapping(settings)


KEYS = [f"{group}.{name}" for group, fields in to_mapping(SETTINGS).items() for name in fields]
GROUPS = ["model", "data.augmentation", "model.preset", "data.augmentation.preset", "run.", ".", "optim"]


@fuzz(slower=10)
@given(seed=SEEDS)
def test_overrides(seed: int, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    for dice in mutations(seed):
        path.write_text(dice.choice(["", "model: tiny\n", "data: {augmentation: strong}\n", "run: &a {epochs: 1}\n"]))
        overrides = dice.some(0, 3, lambda dice=dice: an_override(dice))
        with case():
            read(path, overrides)


def an_override(dice: Dice) -> str:
    if dice.maybe(0.2):
        return dice.choice([dice.piece(), dice.text()])
    key = dice.choice(dice.choice([KEYS, KEYS, GROUPS, PIECES]))
    return f"{key}={dice.choice([dice.piece(), str(dice.value())])}"


@fuzz(slower=2)
@given(seed=SEEDS)
def test_yaml(seed: int) -> None:
    for dice in mutations(seed):
        kind = dice.randint(0, 3)
        pieces = [dice.piece() for _ in range(dice.randint(0, 8))]
        text = ["".join(pieces), "\n".join(pieces), str(dice.value()), dice.text()][kind]
        data = text.encode("utf-8", "surrogatepass")
        with case(YamlError):
            parse_yaml(dice.damaged(data) if dice.maybe(0.2) else data)
