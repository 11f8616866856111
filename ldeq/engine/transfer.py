"""A run that starts from the weights of another model: everything that does not depend on the landmarks goes along."""

from __future__ import annotations

import torch

from ..data import Layout
from ..models import LDEQ
from .settings import SettingsError
from .weights import Pretrained

# The first convolution of the cell takes heatmaps and features side by side, heatmaps first.
_MIX = "deq.cell.mix.0.weight"
_HEAD = "deq.cell.head."


def transfer(begin: Pretrained, model: LDEQ, layout: Layout) -> tuple[str, list[str]]:
    """Copies into a model what fits from another one.

    With the same layout every weight is copied. With another one, the stem and the hourglass are, and of the cell's first
    convolution the part that reads the picture's features; what belongs to single landmarks stays as it is.

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
    left: list[str] = []
    copied = total = 0
    for name, target in state.items():
        if name.endswith("num_batches_tracked"):  # not kept in weights
            continue
        total += target.numel()
        source = given.get(name)
        part = None if source is None else _fitting(name, source, target, same, begin.layout.count, layout.count)
        if part is None:
            left.append(name)
            continue
        source, place = part
        with torch.no_grad():
            place.copy_(source)
        copied += place.numel()
        if place.numel() < target.numel():
            left.append(f"{name} (the heatmaps' part)")
    # Only what the number of landmarks decides may be left: two convolutions.
    other = [name for name in left if not name.startswith((_HEAD, _MIX))]
    if other or (same and left):
        raise SettingsError(
            f"run.start {begin.name} has other layers than model ({(other or left)[0]} is of another shape); set the width and "
            "depth it was trained with"
        )
    return f"{copied} of {total}", left


def _fitting(
    name: str, source: torch.Tensor, target: torch.Tensor, same: bool, before: int, now: int
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The part of `source` that fits, and its place in `target`."""
    if name == _MIX and not same:
        source, target = source[:, before:], target[:, now:]
    if source.shape != target.shape or (not same and name.startswith(_HEAD)):
        return None
    return source, target
