"""Models for inference: where they are found, how they are loaded and saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..brief import brief_repr
from ..confidence import Calibration
from ..data import Layout, get_layout, is_known, layout_document, layout_from
from ..files import user_path
from ..models import LDEQ, LDEQConfig
from ..spelling import did_you_mean
from . import checkpoint
from .checkpoint import CheckpointError
from .documents import calibration_in, check_weights_document, training_document, weights_document
from .settings import TrainSettings, to_mapping

SHIPPED = "weights"
"""Folder of the package that holds the shipped models, one ``name.safetensors`` each."""


@dataclass(frozen=True)
class Pretrained:
    """A model and what must be known to use it.

    Attributes:
        model: in eval mode, float32.
        layout: its landmarks.
        crop_rule: the rule of the crops it was trained on.
        crop_scale: the scale of that rule.
        card: facts about data, licence and score, as far as the file states them.
        name: file name without suffix.
        calibration: by which its answers are judged; None if the file holds none.
    """

    model: LDEQ
    layout: Layout
    crop_rule: str
    crop_scale: float
    card: dict[str, Any]
    name: str
    calibration: Calibration | None = None

    __repr__ = brief_repr


def shipped_models() -> list[str]:
    """Names of the models that come with the package."""
    folder = resources.files("ldeq").joinpath(SHIPPED)
    if not folder.is_dir():
        return []
    return sorted(f.name.removesuffix(".safetensors") for f in folder.iterdir() if f.name.endswith(".safetensors"))


def find_weights(name: str | Path) -> Path:
    """The file behind a shipped name or a path.

    Raises:
        CheckpointError: if it is neither.
    """
    if str(name) in shipped_models():
        return Path(str(resources.files("ldeq").joinpath(SHIPPED, f"{name}.safetensors")))
    path = user_path(name)
    if not path.is_file():
        raise CheckpointError(
            f"{str(name)!r} is no shipped model ({', '.join(shipped_models()) or 'none'}) and there is no such file"
            f"{did_you_mean(name, [*shipped_models(), *_beside(path)])}"
        )
    return path


def _beside(path: Path) -> list[str]:
    """The weights in the folder where one was looked for, as the user would name them."""
    try:
        return [str(file) for file in path.parent.glob("*.safetensors")]
    except OSError:
        return []


def load_pretrained(name: str | Path, device: torch.device | str = "cpu") -> Pretrained:
    """Loads a shipped model, a weights file, or a training checkpoint (its moving average where it has one).

    Args:
        name: a shipped name such as ``"small-68"``, or a path to a ``.safetensors`` file.
        device: where the model goes.

    Raises:
        CheckpointError: if the file is missing, damaged, of a newer version, or not one of ldeq's.
    """
    path = find_weights(name)
    groups, document = checkpoint.load(path)
    card: dict[str, Any] = {}
    calibration = None
    if document.get("kind") == "training":
        _, settings = training_document(path, document)
        config, tensors = settings.model, groups.get("ema", groups.get("model", {}))
        crop_rule, crop_scale = settings.data.crop, settings.data.crop_scale
    else:
        kept, config = weights_document(path, document)
        tensors, card = groups.get("model", {}), kept.card
        crop_rule, crop_scale = kept.crop.rule, kept.crop.scale
        calibration = calibration_in(path, kept, config)
    _check_tensors(path, config, tensors)
    # Whatever the process's defaults; its random numbers stay. Weights made in inference mode could not be watched for changes.
    with torch.inference_mode(False), torch.device("cpu"), torch.random.fork_rng(devices=()):
        model = LDEQ(config).float()
        # The number of batches that BatchNorm has seen is not kept in weights.
        model.load_state_dict({name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}, strict=False)
        model = model.requires_grad_(False).eval().to(device)
    return Pretrained(model, layout_in(document, path), crop_rule, float(crop_scale), card, path.stem, calibration)


def _check_tensors(path: Path, config: LDEQConfig, tensors: Mapping[str, Tensor]) -> None:
    """Compares names and shapes without memory: a configuration may ask for more than there is.

    Raises:
        CheckpointError: if the tensors are not those of a model of that configuration.
    """
    with torch.device("meta"), torch.random.fork_rng(devices=()):
        expected = {name: t.shape for name, t in LDEQ(config).state_dict().items()}
    missing = [name for name in expected if name not in tensors and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in tensors if name not in expected]
    if missing or unexpected:
        raise CheckpointError(
            f"{path} does not fit its own configuration: missing {missing[:3]}, unexpected {unexpected[:3]}; update ldeq"
        )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name]:
            raise CheckpointError(
                f"{path} does not fit its own configuration: {name} has shape {tuple(tensor.shape)} and the configuration "
                f"asks for {tuple(expected[name])}; the file is damaged: use another"
            )


def layout_entries(layout: Layout) -> dict[str, Any]:
    """What weights and checkpoints say of their landmarks: the name, and for a layout of one's own all of it."""
    own = {} if is_known(layout) else {"layout_definition": layout_document(layout)}
    return {"layout": layout.name, **own}


def layout_in(document: dict[str, Any], path: Path) -> Layout:
    """The layout of weights or of a checkpoint.

    Raises:
        DataError: where its definition is damaged.
    """
    definition = document.get("layout_definition")
    return get_layout(document["layout"]) if definition is None else layout_from(definition, str(path))


def save_weights(
    path: Path,
    model: LDEQ,
    layout: Layout,
    settings: TrainSettings,
    extra: dict[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Writes a model for inference: weights, configuration, layout and crop rule in one safetensors file.

    Args:
        path: ``*.safetensors``.
        model: the model.
        layout: its landmarks.
        settings: the run that made it; crop rule and scale come from here.
        extra: more for the header: ``card``, JSON-serialisable facts; ``validation``, a score by its names; and
            ``calibration``, the fields of a `Calibration`.
        dtype: of the stored floating tensors; as they are if None. bf16 halves the file.

    Raises:
        CheckpointError: if the file cannot be written, or `extra` holds anything else.
    """
    tensors = {
        name: t.to(dtype) if dtype and t.is_floating_point() else t
        for name, t in model.state_dict().items()
        if not name.endswith("num_batches_tracked")  # counts training steps; of no use for inference
    }
    document = {
        "kind": "weights",
        "model": to_mapping(settings)["model"],
        **layout_entries(layout),
        "crop": {"rule": settings.data.crop, "scale": settings.data.crop_scale},
        **(extra or {}),
    }
    check_weights_document(document)
    checkpoint.save(path, {"model": tensors}, document)
