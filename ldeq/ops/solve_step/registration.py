"""Enters the compiled steps with the dispatcher, under the backends that run them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..dispatch import register

_OPERATORS = ("anderson_step", "fixed_point_step", "best_so_far")


def register_compiled() -> None:
    for suffix, backends in (("", ("cpu", "cuda")), ("_triton", ("triton",))):
        for name in _OPERATORS:
            torch.library.register_fake(f"ldeq::{name}{suffix}")(_best_fake if name == "best_so_far" else _step_fake)
            for backend in backends:
                register(name, backend)(getattr(torch.ops.ldeq, name + suffix))


def _step_fake(*_: Any) -> None:
    """A step writes into its arguments and returns nothing."""


def _best_fake(ring: list[Tensor], saved_best: Tensor, start: Tensor, flags: Tensor) -> Tensor:
    return torch.empty_like(start)
