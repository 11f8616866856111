"""Evaluations of f: what it is given, what it may return, and whether it changed what the solve still holds.

A solve keeps references to what f returned and copies nothing. An f that writes into its argument, or fills a buffer that it
returned before, would change the history of the solve behind its back. The residual of such an f can be 0 at a wrong answer.
Every tensor counts the writes to it, so a check costs a few integer comparisons and no pass over memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from weakref import ReferenceType, ref

import torch
from torch import Tensor

from .compaction import Selectable

# Numbers of a tensor that are compared if the tensor does not count writes: PyTorch's inference tensors.
SAMPLED = 64


class Evaluation:
    """Calls f on flattened states and checks what comes back."""

    def __init__(self, f: Callable[[Tensor], Tensor], shape: torch.Size) -> None:
        self._f, self._shape = f, shape
        self._held: deque[_Held] = deque()

    def __call__(self, x: Tensor) -> Tensor:
        """f at x `(b, D)`, as f returned it, `(b, ...)`.

        Raises:
            ValueError: for what is not a tensor of the shape and device of its argument, and for an f that changed its argument
                or a value that the solve still holds.
        """
        shape = torch.Size((x.shape[0], *self._shape[1:]))
        given = x.reshape(shape)
        watched = None if _untraceable(given) else _Watched(given)
        fx = self._f(given)
        if not isinstance(fx, Tensor):
            raise ValueError(f"f must return a tensor, it returned {type(fx).__name__}")
        if not fx.is_floating_point() or fx.device != x.device:
            raise ValueError(
                f"f must return floating point on {x.device} like its argument, it returned {fx.dtype} on {fx.device}"
            )
        if fx.shape != shape:
            raise ValueError(f"f must keep the shape of its argument {tuple(shape)}, it returned {tuple(fx.shape)}")
        if watched is not None and not _untraceable(fx):
            # First the values held: without damping, the argument is the last of them.
            for held in self._held:
                held.check(fx)
            if watched.written(fx):
                raise ValueError(
                    "f changed its argument in place; let it work on a copy, z = z.clone(), or use z.mul() for z.mul_()"
                )
        return fx

    def hold(self, fx: Tensor, f: Tensor, slots: int) -> None:
        """Watches f `(b, D)`, which the solve keeps of what f returned, until `slots` newer ones have come."""
        if _untraceable(fx):
            return
        if len(self._held) == slots:
            self._held.popleft()
        self._held.append(_Held(fx, f))

    def narrow(self, keep: Tensor) -> None:
        """From now on, f of the samples `keep` `(b,)` int64 alone."""
        assert isinstance(self._f, Selectable)
        self._f = self._f.select(keep)
        self._held.clear()  # the solve holds copies now


@dataclass(slots=True)
class _Memory:
    """Bytes `[first, last)` of a storage."""

    storage: int
    first: int
    last: int

    @classmethod
    def of(cls, t: Tensor) -> _Memory:
        first = t.data_ptr()
        length = 1 + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True)) if t.numel() else 0
        return cls(t.untyped_storage().data_ptr(), first, first + length * t.itemsize)

    def meets(self, other: _Memory) -> bool:
        return self.storage == other.storage and self.first < other.last and other.first < self.last


class _Watched:
    """A tensor that f must leave as it is, and what tells whether it has been written to since."""

    def __init__(self, t: Tensor) -> None:
        self.t = t
        self.version = -1 if t.is_inference() else t._version
        self.sample = _sample(t) if self.version < 0 else None

    def written(self, fx: Tensor) -> bool:
        """Whether f wrote to this tensor in the call that returned fx."""
        if (self.t._version == self.version) if self.version >= 0 else (_sample(self.t) == self.sample):
            return False
        # A large buffer in which each answer has a place of its own counts the writes to all of them together.
        mine, new = _Memory.of(self.t), _Memory.of(fx)
        return mine.storage != new.storage or mine.meets(new)


class _Held(_Watched):
    """A value that f returned and that the solve still reads."""

    def __init__(self, fx: Tensor, f: Tensor) -> None:
        super().__init__(f)
        self.owner: ReferenceType[Tensor] = ref(_owner(fx))
        self.memory = _Memory.of(f)

    def check(self, fx: Tensor) -> None:
        """
        Raises:
            ValueError: if this value was written to, or if fx lies in its memory and is not the same constant again.
        """
        written = self.written(fx)
        if written or fx.untyped_storage().data_ptr() == self.memory.storage:
            constant = not written and self.owner() is _owner(fx)
            if not constant and self.memory.meets(_Memory.of(fx)):
                raise ValueError(
                    "f must return a new tensor at each call, it filled the one that it returned before; end it with .clone()"
                )
            if written:
                raise ValueError("f changed a tensor that it returned before; end it with .clone()")


def _owner(t: Tensor) -> Tensor:
    return t if t._base is None else t._base


def _untraceable(t: Tensor) -> bool:
    """Tensors that are traced or transformed have no address, and count no writes of their own."""
    return torch.compiler.is_compiling() or type(t) is not Tensor or torch._C._functorch.is_functorch_wrapped_tensor(t)


def _sample(t: Tensor) -> bytes | None:
    """Some numbers of an inference tensor, None on a device, where reading them would wait for it."""
    if t.device.type != "cpu":
        return None
    flat = t.detach().reshape(-1) if t.is_contiguous() else t.detach().flatten()[:0]
    return flat[:: max(1, flat.numel() // SAMPLED)].double().numpy().tobytes()
