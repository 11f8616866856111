"""Reads checkpoints in the format of the paper's release, without executing anything that is in them.

Such a file is a pickle with two entries: ``args``, an `argparse.Namespace`, and ``state_dict``. It is read by torch's
restricted unpickler, which builds tensors, containers and that one class, and refuses everything else.

What the tensors are called does not matter. Every convolution of the model has a shape that no other one has, so its shape says
where it belongs; a norm belongs to the convolution beside it. The released model concatenates (skip, upsampled) in front of the
1x1 convolution of each level up, and `HourglassLevel` takes the upsampled half first: these kernels change their halves.
"""

from __future__ import annotations

import argparse
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..data import get_layout
from ..models import LDEQ, LDEQConfig
from .checkpoint import CheckpointError
from .settings import DataSettings, TrainSettings

Variant = Literal["stills", "video"]

LICENCE = (
    "research use only: these weights were converted from a checkpoint of the paper's release, whose licence allows research "
    "alone and follows every copy; the photos of WFLW are for research as well"
)
"""What the card of converted weights says."""

_BETA = {"stills": 0.3, "video": 0.4}
_PARTS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_SHOWN = 3


@dataclass(frozen=True)
class Published:
    """A published model, as this package builds it.

    Attributes:
        settings: configuration and crop; the loop is the published one, and so figures can be compared.
        tensors: the weights under the names of `LDEQ`, float32.
        variant: the stills or the video model.
        arguments: numbers among the stored arguments, by name.
    """

    settings: TrainSettings
    tensors: dict[str, Tensor]
    variant: Variant
    arguments: dict[str, float]


@dataclass
class _Layer:
    """A convolution or a norm of the file: its name there and its tensors."""

    name: str
    tensors: dict[str, Tensor] = field(default_factory=dict)

    @property
    def parent(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensors["weight"].shape)


def read_published(path: Path, variant: Variant | None = None, ignore: Collection[str] = ()) -> Published:
    """Reads a checkpoint of the paper's release.

    Args:
        path: the file, ``final.pth.tar``.
        variant: which of the two published models it is; told from the stored arguments if None.
        ignore: names of tensors that hold no weights and are left out.

    Raises:
        CheckpointError: if the file cannot be read, asks for more than tensors and the arguments, or holds another model: the
            sentence names the tensors that are missing, left over, or of another shape.
    """
    document = _load(path)
    arguments = document.get("args")
    values = vars(arguments) if isinstance(arguments, argparse.Namespace) else arguments
    values = values if isinstance(values, Mapping) else {}
    variant = variant or _variant(path, values)
    layers = _layers(path, _state(path, document), ignore)
    config = _configuration(path, [layer for layer in layers if len(layer.shape) == 4], variant)
    tensors = _placed(path, layers, config)
    crop = "hih" if variant == "stills" else "landmarks"
    settings = TrainSettings(model=config, data=DataSettings(crop=crop, crop_scale=1.2))
    numbers = {str(k)[:60]: v for k, v in values.items() if isinstance(v, int | float) and abs(v) < 1e9}
    return Published(settings, tensors, variant, dict(list(numbers.items())[:200]))


def _load(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}; check the path")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            document = torch.load(path, map_location="cpu", weights_only=True)
    # A damaged pickle can fail in any way that a reader of pickles can; nothing of it has been executed.
    except Exception as error:
        reason = str(error)
        if "GLOBAL" in reason or "Unsupported" in reason or "unsafe" in reason.lower():
            what = next((line.strip() for line in reason.splitlines() if "GLOBAL" in line or "Unsupported" in line), reason)
            raise CheckpointError(
                f"{path} asks for more than tensors and arguments ({what[:200]}); nothing was executed: do not trust this file"
            ) from error
        why = (reason.splitlines() or [type(error).__name__])[0][:200]
        raise CheckpointError(f"{path} is no readable checkpoint ({why}); it may be truncated: use another copy") from error
    if not isinstance(document, Mapping) or "state_dict" not in document:
        raise CheckpointError(f"{path} has no entry 'state_dict', as published checkpoints have; use final.pth.tar itself")
    return document


def _state(path: Path, document: Mapping[str, Any]) -> dict[str, Tensor]:
    state = document["state_dict"]
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(f"{path}: state_dict holds no tensors; use another copy")
    for name, tensor in state.items():
        plain = isinstance(tensor, Tensor) and tensor.layout == torch.strided and not (tensor.is_meta or tensor.is_quantized)
        if not isinstance(name, str) or not plain:
            raise CheckpointError(f"{path}: state_dict holds {str(name)[:60]!r}, which is no plain tensor; use another copy")
    return dict(state)


def _variant(path: Path, values: Mapping[Any, Any]) -> Variant:
    """The published model whose fixed settings the arguments have: beta, and the solver."""
    found: set[Variant] = set()
    for name, value in values.items():
        if isinstance(value, float) and "beta" in str(name).lower():
            found |= {variant for variant, beta in _BETA.items() if value == beta}  # type: ignore[misc]
        if isinstance(value, str) and "solver" in str(name).lower():
            found |= {"stills"} if "anderson" in value.lower() else set()
            found |= {"video"} if "fixed" in value.lower() or "fpi" in value.lower() else set()
    if len(found) != 1:
        raise CheckpointError(
            f"the arguments in {path} do not tell whether it is the stills or the video model; add --variant stills or "
            "--variant video"
        )
    return found.pop()


def _layers(path: Path, state: Mapping[str, Tensor], ignore: Collection[str]) -> list[_Layer]:
    """Convolutions and norms in the file's order. A module that is registered under two names counts once."""
    for name in ignore:
        if name not in state:
            raise CheckpointError(f"{path} has no tensor {name[:60]!r} to ignore; leave it out")
    layers: dict[str, _Layer] = {}
    for name, tensor in state.items():
        if name in ignore:
            continue
        layer, _, part = name.rpartition(".")
        if part not in _PARTS:
            raise CheckpointError(
                f"{path} holds {name[:80]!r} of shape {tuple(tensor.shape)}, which the published model does not have; use a "
                "checkpoint of that model, or pass --ignore with the name if it holds no weights"
            )
        layers.setdefault(layer, _Layer(layer)).tensors[part] = tensor
    seen: set[tuple[tuple[int, torch.Size], ...]] = set()
    found = []
    for entry in layers.values():
        key = tuple((t.data_ptr(), t.shape) for t in entry.tensors.values())
        if key not in seen:
            seen.add(key)
            found.append(entry)
    for entry in found:
        for part in ("weight", "bias"):
            if part not in entry.tensors:
                raise CheckpointError(f"{path} lacks {f'{entry.name}.{part}'[:80]!r}; use a complete copy")
        if len(entry.shape) not in (1, 4):
            raise CheckpointError(
                f"{path}: {entry.name[:80]}.weight has shape {entry.shape}, and the model has convolutions and norms alone; "
                "use a checkpoint of the published model"
            )
    return found


def _configuration(path: Path, convolutions: Iterable[_Layer], variant: Variant) -> LDEQConfig:
    """Width, increment, depth and landmarks, from the shapes of the convolutions."""
    shapes = [layer.shape for layer in convolutions]
    # Each level up ends in a 5x5 block; the widest 3x3 convolution is that of the bottleneck.
    levels = sorted(outputs for outputs, inputs, rows, _ in shapes if rows == 5 and outputs == inputs)
    bottleneck = max((outputs for outputs, inputs, rows, _ in shapes if rows == 3 and outputs == inputs), default=0)
    stems = [outputs for outputs, inputs, rows, _ in shapes if (inputs, rows) == (3, 7)]
    heads = [outputs for outputs, inputs, rows, _ in shapes if levels and (inputs, rows) == (levels[0], 1)]
    for what, found in (
        ("5x5 convolutions of an hourglass", levels),
        ("one 7x7 convolution of 3 channels", stems),
        ("one 1x1 convolution to the landmarks", heads),
    ):
        if not found or (len(found) != 1 and found is not levels):
            raise CheckpointError(f"{path} has not the {what}; use a checkpoint of the published model")
    width, increment = 4 * stems[0], (bottleneck - levels[0]) // len(levels)
    make = LDEQConfig.paper if variant == "stills" else LDEQConfig.paper_video
    if len(levels) > 6 or max(width, bottleneck, heads[0]) > 10_000:
        raise CheckpointError(f"{path} has {len(levels)} levels of up to {bottleneck} channels; use the published model")
    try:
        get_layout(heads[0])
        return make(parity=True, landmarks=heads[0], width=width, width_increment=increment, depth=len(levels))
    except ValueError as error:
        raise CheckpointError(f"{path} is no checkpoint of the published model: {error}") from error


def _placed(path: Path, layers: list[_Layer], config: LDEQConfig) -> dict[str, Tensor]:
    """The weights under this package's names."""
    with torch.device("meta"), torch.random.fork_rng(devices=()):
        expected = {name: tuple(t.shape) for name, t in LDEQ(config).state_dict().items()}
    places = {name.removesuffix(".weight"): shape for name, shape in expected.items() if len(shape) == 4}
    convolutions = [layer for layer in layers if len(layer.shape) == 4]
    by_shape = _by_shape(path, places, convolutions)
    norms = _norms_of(path, layers, head=by_shape["deq.cell.head"])
    tensors: dict[str, Tensor] = {}
    for place, convolution in by_shape.items():
        _take(path, tensors, place, convolution, expected)
        norm = f"{place.removesuffix('.0')}.2"
        if place != "deq.cell.head":
            # The stem is one sequence of blocks, the cell has a module for each.
            _take(path, tensors, norm, norms[convolution.name], expected)
    for name in [name for name in tensors if name.endswith(".fuse.0.weight")]:
        skip, upsampled = tensors[name].chunk(2, dim=1)
        tensors[name] = torch.cat((upsampled, skip), 1)
    return tensors


def _by_shape(path: Path, places: Mapping[str, tuple[int, ...]], convolutions: list[_Layer]) -> dict[str, _Layer]:
    several = [shape for shape, count in Counter(places.values()).items() if count > 1]
    if several:
        raise CheckpointError(f"{path}: two convolutions of such a model have the shape {several[0]}; it cannot be converted")
    wanted = {shape: place for place, shape in places.items()}
    found: dict[str, _Layer] = {}
    left: list[_Layer] = []
    for layer in convolutions:
        place = wanted.get(layer.shape)
        if place is None or place in found:
            left.append(layer)
        else:
            found[place] = layer
    missing = [f"{place} {shape}" for place, shape in places.items() if place not in found]
    if missing or left:
        extra = [f"{layer.name[:60]}.weight {layer.shape}" for layer in left]
        raise CheckpointError(
            f"{path} does not fit the published model: missing are {_list(missing)}, left over are {_list(extra)}; use a "
            "checkpoint of that model"
        )
    return found


def _norms_of(path: Path, layers: list[_Layer], head: _Layer) -> dict[str, _Layer]:
    """The norm of each convolution but the head's: the one in the same place of the same parent, else of the whole file."""
    blocks = [layer for layer in layers if layer is not head]
    pairs: dict[str, _Layer] = {}
    groups = [[layer for layer in blocks if layer.parent == parent] for parent in dict.fromkeys(b.parent for b in blocks)]
    if any(len(convolutions) != len(norms) for convolutions, norms in map(_split, groups)):
        groups = [blocks]
    for convolutions, norms in map(_split, groups):
        if len(convolutions) != len(norms):
            raise CheckpointError(
                f"{path} has {len(convolutions)} convolutions in front of a norm and {len(norms)} norms; use a complete "
                "copy of the published model"
            )
        pairs.update({c.name: norm for c, norm in zip(convolutions, norms, strict=True)})
    return pairs


def _split(layers: list[_Layer]) -> tuple[list[_Layer], list[_Layer]]:
    return [x for x in layers if len(x.shape) == 4], [x for x in layers if len(x.shape) == 1]


def _take(path: Path, tensors: dict[str, Tensor], place: str, layer: _Layer, expected: Mapping[str, tuple[int, ...]]) -> None:
    """Puts a layer's tensors into their place."""
    for part in _PARTS:
        name, theirs = f"{place}.{part}", f"{layer.name[:60]}.{part}"
        tensor, shape = layer.tensors.get(part), expected.get(name)
        if part == "num_batches_tracked" or (tensor is None and shape is None):
            continue
        if tensor is None or shape is None:
            what = "lacks" if tensor is None else "holds"
            raise CheckpointError(f"{path} {what} {theirs}, and {place} has{' not' * (shape is None)} one; use another copy")
        if tuple(tensor.shape) != shape:
            raise CheckpointError(f"{path}: {theirs} has shape {tuple(tensor.shape)}, and {name} has {shape}; use another copy")
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{path}: {theirs} holds {tensor.dtype} values that are no finite numbers; use another copy")
        tensors[name] = tensor.detach().float().clone()


def _list(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + f" and {len(names) - _SHOWN} more" * (len(names) > _SHOWN) if names else "none"
