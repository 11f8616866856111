"""Which implementation runs an operator.

Every operator has one reference in plain PyTorch (``"torch"``), which is its specification, and may have compiled ones.
An automatic choice takes the first backend of `PREFERENCE` that serves the tensor, operator by operator; a backend that was
asked for by name runs or raises, it never falls back in silence. `explain` tells what serves a tensor, and why not.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import Any

import torch
from torch.autograd import forward_ad

from ..errors import ArgumentError, LdeqError
from ..spelling import did_you_mean
from . import library, triton_library

PREFERENCE = ("cuda", "triton", "cpu", "torch")
NAMES = ("auto", *PREFERENCE)

_implementations: dict[str, dict[str, Callable[..., Any]]] = {}
# A context variable, not a global: threads and async tasks each keep their own choice.
_choice: ContextVar[str] = ContextVar("ldeq_backend", default="auto")


class BackendError(LdeqError, RuntimeError):
    """A backend was asked for by name and cannot run here."""


def register(operator: str, backend: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator that makes a function the implementation of ``operator`` on ``backend``."""

    def keep(function: Callable[..., Any]) -> Callable[..., Any]:
        _implementations.setdefault(operator, {})[_checked(backend)] = function
        return function

    return keep


def available_backends() -> dict[str, str]:
    """Maps each backend name to ``"available"`` or to the reason why it is not."""
    return {name: _missing(name) or "available" for name in PREFERENCE}


def explain(operator: str, tensor: torch.Tensor) -> dict[str, str]:
    """Maps each backend name to ``"serves"`` or to the reason why it does not; an automatic choice takes the first that serves.

    ```python
    ldeq.ops.explain("softargmax", torch.zeros(1, 1, 8, 8, dtype=torch.float64))
    ```

    Args:
        operator: ``"softargmax"``, ``"heatmap_normalise"``, ``"heatmap_readout"``, ``"anderson_step"`` or
            ``"fixed_point_step"``.
        tensor: the logits, or the state of a solve.

    Raises:
        ValueError: for an unknown operator.
    """
    if operator not in _implementations:
        hint = did_you_mean(operator, _implementations)
        raise ArgumentError(f"unknown operator {operator!r}{hint}; choose one of {', '.join(sorted(_implementations))}")
    refusals = {name: _refusal(operator, name, tensor.device.type, tensor.dtype, False) for name in PREFERENCE}
    return {name: reason or "serves" for name, reason in refusals.items()}


def _missing(backend: str) -> str | None:
    """Why `backend` can run nothing in this process."""
    if backend == "cuda":
        return library.CUDA_MISSING
    if backend == "triton":
        return triton_library.missing()
    return library.MISSING if backend == "cpu" else None


def _refusal(operator: str, backend: str, device: str, dtype: torch.dtype, named: bool) -> str | None:
    """Why `backend` does not run `operator` on a tensor of this device and dtype; `named` if it was asked for by name."""
    table = _implementations.get(operator, {})
    if backend not in table:
        return f"it has no {operator!r}; choose one of {sorted(table)} or 'auto'"
    if backend == "torch":
        return None
    # The interpreter serves those who ask for it: it is thousands of times slower than the reference.
    at_home = device == ("cpu" if backend == "cpu" else "cuda")
    if not at_home and not (backend == "triton" and device == "cpu" and named and triton_library.interpreted()):
        move = "move it with .cpu() or choose 'auto'" if backend == "cpu" else "move it with .cuda() or choose 'auto'"
        return f"it cannot run on a tensor on {device}; {move}"
    if dtype not in (triton_library.DTYPES if backend == "triton" else (*triton_library.DTYPES, torch.float64)):
        return f"it does not serve {dtype}; convert or choose 'auto'"
    return _missing(backend)


def _constant_to_dynamo(function: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.compiler.assume_constant_result`, which would import all of Dynamo, and Triton with it, at once."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


# Dynamo cannot follow a context variable: a compiled graph keeps the choice that stood when it was traced.
@_constant_to_dynamo
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


def transformed(tensor: torch.Tensor) -> bool:
    """Whether `torch.func.vmap` maps over the tensor, or forward-mode differentiation gave it a tangent.

    A compiled operator has no rule for the one, and would drop the other without a word.
    """
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(tensor):
        if functorch.is_batchedtensor(tensor) or forward_ad.unpack_dual(tensor).tangent is not None:
            return True
        tensor = functorch.get_unwrapped(tensor)
    return forward_ad.unpack_dual(tensor).tangent is not None


def implementation(operator: str, tensor: torch.Tensor, backend: str | None = None) -> Callable[..., Any]:
    """The function that runs ``operator`` on ``tensor``.

    Args:
        operator: a registered operator's name.
        tensor: the input that decides (device, dtype).
        backend: a name that overrides `use_backend` for this call.

    Raises:
        BackendError: if the backend asked for does not run this operator on this tensor, with the reason.
    """
    name = _checked(backend) if backend is not None else current_backend()
    found, refusal = _choose(operator, name, tensor.device.type, tensor.dtype)
    if refusal is not None:
        raise BackendError(refusal)
    return _implementations[operator][found]


# What is installed and which GPUs there are does not change either.
@_constant_to_dynamo
def _choose(operator: str, name: str, device: str, dtype: torch.dtype) -> tuple[str, str | None]:
    """(backend, None), or (name, why it does not run)."""
    if name != "auto":
        reason = _refusal(operator, name, device, dtype, True)
        return name, reason and f"backend {name!r} cannot run {operator!r}: {reason}"
    for backend in PREFERENCE:
        if _refusal(operator, backend, device, dtype, False) is None:
            return backend, None
    return name, f"no backend runs {operator!r} on a tensor of {dtype} on {device}"


def _checked(name: str) -> str:
    if name not in NAMES:
        raise ArgumentError(f"unknown backend {name!r}{did_you_mean(name, NAMES)}; choose one of {', '.join(NAMES)}")
    return name
