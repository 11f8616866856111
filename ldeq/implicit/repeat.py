"""Evaluating the cell once more exactly as before: same inputs, autocast, random numbers and dropout masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .dropout import VariationalDropout

CHECKPOINT = "torch.utils.checkpoint"


def saved_tensor_hooks() -> str | None:
    """The module of the hooks on saved tensors that are at work (`torch.autograd.graph.saved_tensors_hooks`), None without."""
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    return None if hooks is None else str(getattr(hooks[0], "__module__", ""))


class Repeatable:
    """One evaluation f(z, x) that can be made again, in backward.

    Autograd keeps the tensors of x that require a gradient, and frees them after backward (`forget`). But if hooks on saved
    tensors are at work, such as those that move them to the CPU, a second copy would be made of each; then they stay here.
    """

    def __init__(
        self,
        f: Callable[[Tensor, Any], Tensor],
        x: Any,
        parameters: Sequence[Tensor],
        dropouts: Sequence[VariationalDropout] = (),
        device: torch.device | None = None,
    ) -> None:
        """
        Args:
            f: the cell.
            x: its injection, any structure.
            parameters: that f reads and that require a gradient.
            dropouts: modules inside f, whose masks are those of the moment.
            device: of the state, whose random numbers are drawn again too; None keeps no random numbers.
        """
        leaves, self._spec = pytree.tree_flatten(x)
        self._wanted = [isinstance(leaf, Tensor) and leaf.requires_grad for leaf in leaves]
        self.inputs: list[Tensor] = [leaf for leaf, wanted in zip(leaves, self._wanted, strict=True) if wanted]
        """Tensors of x that require a gradient, if they are kept here."""
        self.count = len(self.inputs)
        self._leaves = [None if wanted else leaf for leaf, wanted in zip(leaves, self._wanted, strict=True)]
        self.parameters = list(parameters)
        self._f = f
        self._masks = [(module, module.mask) for module in dropouts]
        self._device = device
        self._random = [] if device is None else _random_states(device)
        kind = "cpu" if device is None else device.type
        enabled = torch.is_autocast_enabled(kind)
        self._autocast = (kind, torch.get_autocast_dtype(kind)) if enabled else None

    def forget(self) -> list[Tensor]:
        """The tensors of x that require a gradient and shall be saved by autograd."""
        if saved_tensor_hooks() not in (None, CHECKPOINT):
            return []
        inputs, self.inputs = self.inputs, []
        return inputs

    def __call__(self, z: Tensor, inputs: Sequence[Tensor]) -> Tensor:
        """f at z, with `inputs` in the place of the tensors of x that require a gradient."""
        given = iter(inputs)
        leaves = [next(given) if wanted else leaf for leaf, wanted in zip(self._leaves, self._wanted, strict=True)]
        with self._as_it_was():
            return self._f(z, pytree.tree_unflatten(leaves, self._spec))

    @contextmanager
    def _as_it_was(self) -> Iterator[None]:
        now = [module.mask for module, _ in self._masks]
        random = [] if self._device is None else _random_states(self._device)
        kind, dtype = self._autocast or ("cpu" if self._device is None else self._device.type, None)
        try:
            for module, mask in self._masks:
                module.mask = mask
            _set_random_states(self._random, self._device)
            with torch.autocast(kind, dtype=dtype, enabled=self._autocast is not None):
                yield
        finally:
            for (module, _), mask in zip(self._masks, now, strict=True):
                module.mask = mask
            _set_random_states(random, self._device)


def _random_states(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if device.type == "cuda" and not torch.cuda.is_current_stream_capturing():
        states.append(torch.cuda.get_rng_state(device))
    return states


def _set_random_states(states: Sequence[Tensor], device: torch.device | None) -> None:
    if states:
        torch.set_rng_state(states[0])
    if len(states) > 1:
        assert device is not None
        torch.cuda.set_rng_state(states[1], device)
