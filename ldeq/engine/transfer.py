"""A run that starts from the weights of another model: everything that does not depend on the landmarks goes along."""

from __future__ import annotations

from typing import Any

import torch

from ..data import Layout
from ..data.layouts import shared_indices
from ..models import LDEQ
from .settings import SettingsError
from .weights import Pretrained

# The first convolution of the cell takes heatmaps and features side by side, heatmaps first.
_MIX = "deq.cell.mix.0.weight"
_HEAD = "deq.cell.head."


def transfer(begin: Pretrained, model: LDEQ, layout: Layout) -> tuple[str, list[str]]:
    """Copies into a model what fits from another one.

    With the same layout every weight is copied. With another one, the stem and the hourglass are, of the cell's first
    convolution the part that reads the picture's features, and what belongs to landmarks that mean the same in both layouts.
    What belongs to other landmarks stays as it is.

    Args:
        begin: the weights.
        model: is changed.
        layout: of the model.

    Returns:
        How many of the model's weights were copied, in words, and the names of the tensors that were not, or in part.

    Raises:
        SettingsError: where stem or hourglass have other widths, or the same landmarks another order.
    """
    same = begin.layout == layout
    if not same and begin.layout.name == layout.name:
        raise SettingsError(f"run.start and the data have different layouts of one name, {layout.name!r}; rename the data's")
    given, state = begin.model.state_dict(), model.state_dict()
    shared = shared_indices(begin.layout, layout) or ((), ())
    left: list[str] = []
    copied = total = 0
    for name, target in state.items():
        if name.endswith("num_batches_tracked"):  # not kept in weights
            continue
        total += target.numel()
        source = given.get(name)
        places = None if source is None else _places(name, source, target, same, shared, (begin.layout.count, layout.count))
        if source is None or places is None:
            left.append(name)
            continue
        taken, place = places
        with torch.no_grad():
            target[place] = source[taken]
        copied += target[place].numel()
        if target[place].numel() < target.numel():
            left.append(f"{name} (what belongs to other landmarks)")
    # Only what the number of landmarks decides may be left: two convolutions.
    other = [name for name in left if not name.startswith((_HEAD, _MIX))]
    if other or (same and left):
        raise SettingsError(
            f"run.start {begin.name} has other layers than model ({(other or left)[0]} is of another shape); set the width and "
            "depth it was trained with"
        )
    return f"{copied} of {total}", left


Indices = tuple[Any, ...]


def _places(
    name: str,
    source: torch.Tensor,
    target: torch.Tensor,
    same: bool,
    shared: tuple[tuple[int, ...], tuple[int, ...]],
    counts: tuple[int, int],
) -> tuple[Indices, Indices] | None:
    """Where in `source` the part lies that fits, and where in `target` it belongs.

    Args:
        name: of the tensor.
        source: the given one.
        target: the model's.
        same: whether both models have one layout.
        shared: indices of the landmarks that mean the same, in both layouts.
        counts: of the landmarks of both.
    """
    if same or not name.startswith((_HEAD, _MIX)):
        return ((...,), (...,)) if source.shape == target.shape else None
    if name == _MIX:
        if source.shape[1] - counts[0] != target.shape[1] - counts[1] or source.shape[0] != target.shape[0]:
            return None
        of_source, of_target = (
            [*landmarks, *range(count, tensor.shape[1])]
            for landmarks, count, tensor in zip(shared, counts, (source, target), strict=True)
        )
        return (slice(None), of_source), (slice(None), of_target)
    if not shared[0] or source.shape[1:] != target.shape[1:]:
        return None
    return (list(shared[0]),), (list(shared[1]),)
