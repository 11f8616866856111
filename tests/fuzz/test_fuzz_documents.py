"""Whatever weights, checkpoints, settings and overrides hold: what was asked for or one sentence, in little memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from fuzzing import EDITS, PIECES, VALUES, bounded_memory, case, edited, fuzz, replaced
from hypothesis import given
from hypothesis import strategies as st

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
PLACE = {"where": st.floats(0, 1), "value": VALUES, "kind": st.integers(0, 2)}


@pytest.fixture(scope="module", autouse=True)
def little_memory() -> Iterator[None]:
    with bounded_memory():
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_weights(path, LDEQ(SETTINGS.model), WFLW98, SETTINGS)
    return path


@fuzz
@given(**PLACE)
def test_documents_of_weights(where: float, value: Any, kind: int, weights: Path) -> None:
    document = replaced(checkpoint.read_document(weights), where, value, kind)
    if isinstance(document, dict):
        with case():
            weights_document(weights, document)
            layout_in(document, weights)


@fuzz
@given(**PLACE)
def test_documents_of_training(where: float, value: Any, kind: int, weights: Path) -> None:
    document = replaced(TRAINING, where, value, kind)
    if isinstance(document, dict):
        with case():
            training_document(weights, document)
            layout_in(document, weights)


@fuzz
@given(**PLACE, tensor=st.integers(-1, 30), shape=st.lists(st.integers(0, 5), max_size=4))
def test_files_of_weights_whose_document_or_tensors_changed(
    where: float, value: Any, kind: int, tensor: int, shape: list[int], weights: Path
) -> None:
    """Written as ldeq writes them, with a checksum that fits."""
    groups, document = checkpoint.load(weights)
    if tensor < 0:
        document = replaced(document, where, value, kind)
    else:
        name = sorted(groups["model"])[tensor % len(groups["model"])]
        groups["model"][name] = torch.zeros(shape, dtype=torch.int64 if kind else torch.float32)
    path = weights.with_name("other.safetensors")
    try:
        tensors = {f"model/{name}": t for name, t in groups["model"].items()}
        path.write_bytes(
            safetensors.torch.save(tensors, {"ldeq": json.dumps(document if tensor >= 0 else {**document, "format": 1})})
        )
    except (TypeError, ValueError, UnicodeError):
        return  # no file can hold it
    with case():
        load_pretrained(path)


@fuzz
@given(
    edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 20), st.binary(max_size=12)), min_size=1, max_size=4),
    head=st.booleans(),
)
def test_damaged_files_of_weights(edits: list[tuple[float, int, bytes]], head: bool, weights: Path) -> None:
    data = weights.read_bytes()
    for where, length, piece in edits:
        place = int(where * (200 if head else len(data)))
        data = data[:place] + piece + data[place + length :]
    path = weights.with_name("damaged.safetensors")
    path.write_bytes(data)
    with case():
        load_pretrained(path)


@fuzz
@given(edits=EDITS)
def test_files_of_settings(edits: list[tuple[float, int, str]], tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(edited(dump(SETTINGS), edits))
    with case():
        settings = read(path)
        assert from_mapping(to_mapping(settings)) == settings


@fuzz
@given(**PLACE)
def test_mappings_of_settings(where: float, value: Any, kind: int) -> None:
    document = replaced(to_mapping(SETTINGS), where, value, kind)
    with case():
        settings = from_mapping(document)
        assert to_mapping(from_mapping(to_mapping(settings))) == to_mapping(settings)


KEYS = [f"{group}.{name}" for group, fields in to_mapping(SETTINGS).items() for name in fields]


@fuzz
@given(
    overrides=st.lists(
        st.tuples(
            st.sampled_from([*KEYS, "model", "data.augmentation", "model.preset", "data.augmentation.preset"]) | PIECES, PIECES
        ).map("=".join)
        | PIECES
        | st.text(max_size=10),
        max_size=3,
    ),
    text=st.sampled_from(["", "model: tiny\n", "data: {augmentation: strong}\n", "run: &a {epochs: 1}\n"]),
)
def test_overrides(overrides: list[str], text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with case():
        read(path, overrides)


@fuzz
@given(
    text=st.lists(PIECES, max_size=8).map("".join)
    | st.binary(max_size=40)
    | st.recursive(VALUES, lambda v: st.lists(v, max_size=3)).map(str)
)
def test_yaml(text: str | bytes) -> None:
    with case(YamlError):
        parse_yaml(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
