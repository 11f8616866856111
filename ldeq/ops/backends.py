"""Which implementation runs an operator.

Every operator has one reference in plain PyTorch (``"torch"``), which is its specification, and may have compiled ones.
An automatic choice takes the first backend of `PREFERENCE` that serves the tensor; a backend that was asked for by name
runs or raises, it never falls back in silence.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import Any

import torch

from . import library

PREFERENCE = ("cuda", "triton", "cpu", "torch")
NAMES = ("auto", *PREFERENCE)

_implementations: dict[str, dict[str, Callable[..., Any]]] = {}
# A context variable, not a global: threads and async tasks each keep their own choice.
_choice: ContextVar[str] = ContextVar("ldeq_backend", default="auto")


class BackendError(RuntimeError):
    """A backend was asked for by name and cannot run here."""


def register(operator: str, backend: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator that makes a function the implementation of ``operator`` on ``backend``."""

    def keep(function: Callable[..., Any]) -> Callable[..., Any]:
        _implementations.setdefault(operator, {})[_checked(backend)] = function
        return function

    return keep


def available_backends() -> dict[str, str]:
    """Maps each backend name to ``"available"`` or to the reason why it is not."""
    present = {name for table in _implementations.values() for name in table}
    missing = dict.fromkeys(PREFERENCE, "not part of this version of ldeq") | (
        {"cpu": library.MISSING} if library.MISSING else {}
    )
    return {name: "available" if name in present else missing[name] for name in PREFERENCE}


# Dynamo cannot follow a context variable: a compiled graph keeps the choice that stood when it was traced.
@torch.compiler.assume_constant_result
def current_backend() -> str:
    """The name set by `use_backend`, ``"auto"`` unless changed."""
    return _choice.get()


class use_backend:
    """Chooses the backend of all operators, as a plain call or as a context manager.

    ```python
    ldeq.ops.use_backend("torch")            # from here on
    with ldeq.ops.use_backend("torch"): ...  # inside the block, then back to what it was
    ```

    Args:
        name: ``"auto"``, ``"cuda"``, ``"triton"``, ``"cpu"`` or ``"torch"``.

    Raises:
        ValueError: for an unknown name, `BackendError` for a known one that is not available, with the reason.
    """

    def __init__(self, name: str) -> None:
        reason = available_backends()[name] if _checked(name) != "auto" else "available"
        if reason != "available":
            raise BackendError(f"backend {name!r} cannot be used: {reason}")
        self._name, self._before = name, _choice.get()
        _choice.set(name)

    def __enter__(self) -> use_backend:
        # Not yet, or no longer, the choice if the object was kept and is entered later.
        _choice.set(self._name)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        _choice.set(self._before)


def implementation(operator: str, tensor: torch.Tensor, backend: str | None = None) -> Callable[..., Any]:
    """The function that runs ``operator`` on ``tensor``.

    Args:
        operator: a registered operator's name.
        tensor: the input that decides (device).
        backend: a name that overrides `use_backend` for this call.

    Raises:
        BackendError: if the backend asked for has no implementation of this operator.
    """
    table = _implementations.get(operator, {})
    name = _checked(backend) if backend is not None else current_backend()
    if name == "auto":
        # Compiled backends serve one kind of device each; the reference serves all.
        name = next(n for n in PREFERENCE if n in table and (n == "torch" or n == tensor.device.type))
    if name not in table:
        raise BackendError(f"backend {name!r} has no {operator!r}; choose one of {sorted(table)} or 'auto'")
    if name == "cpu" and tensor.device.type != "cpu":
        raise BackendError(f"backend 'cpu' cannot run on a tensor on {tensor.device}; move it with .cpu() or choose 'auto'")
    return table[name]


def _checked(name: str) -> str:
    if name not in NAMES:
        raise ValueError(f"unknown backend {name!r}; choose one of {', '.join(NAMES)}")
    return name
