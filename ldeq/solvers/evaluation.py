"""Evaluations of f: what it is given, what it may return, and whether it changed what the solve still holds.

A solve keeps references to what f returned and copies nothing. An f that writes into its argument, or fills a buffer that it
returned before, would change the history of the solve behind its back. The residual of such an f can be 0 at a wrong answer.
Every tensor counts the writes to it, so a check costs a few integer comparisons and no pass over memory.
"""

from __future__ import annotations

from collections.abc import Callable
from ctypes import string_at
from weakref import ref

import torch
from torch import Tensor

from ..errors import LdeqError
from .compaction import Selectable

is_functorch_wrapped_tensor = torch._C._functorch.is_functorch_wrapped_tensor

# What is compared of a tensor if its writes are not counted: all of it up to so many bytes, else so many of its numbers.
WHOLE = 1 << 14
SAMPLED = 64

# Calls of a solve whose argument is compared in any case. One is not enough: zeros stay zeros if f multiplies them.
CALLS_SAMPLED = 2


class MapError(LdeqError, ValueError):
    """An f that returns what is no value, changes its argument, or changes what the solve still holds of it."""


class Evaluation:
    """Calls f on flattened states and checks what comes back."""

    def __init__(self, f: Callable[[Tensor], Tensor], shape: torch.Size) -> None:
        self._f, self._shape = f, shape
        self._held: list[_Held] = []
        self._watches = True
        self._calls = 0
        # Whether nothing is differentiated or mapped, so that an alias may be taken the quick way.
        self.plain = False

    def __call__(self, x: Tensor) -> Tensor:
        """f at x `(b, D)`, as f returned it, `(b, ...)`.

        Raises:
            MapError: for what is not a tensor of the shape and device of its argument, and for an f that changed its argument
                or a value that the solve still holds.
        """
        self._watches = self._watches and _has_address(x)
        shape = self._shape if x.shape[0] == self._shape[0] else torch.Size((x.shape[0], *self._shape[1:]))
        # An alias in any case: what f may do to the tensor itself, such as .requires_grad_(), is not done to the solver's.
        given = x.detach() if self.plain and x.shape == shape else x.reshape(shape)
        argument = _Watched(given, sampled=self._calls < CALLS_SAMPLED) if self._watches else None
        self._calls += 1
        fx = self._f(given)
        if not isinstance(fx, Tensor):
            raise MapError(f"f must return a tensor, it returned {type(fx).__name__}")
        if not fx.is_floating_point() or fx.device != x.device:
            raise MapError(
                f"f must return floating point on {x.device} like its argument, it returned {fx.dtype} on {fx.device}"
            )
        if fx.shape != shape:
            raise MapError(f"f must keep the shape of its argument {tuple(shape)}, it returned {tuple(fx.shape)}")
        self._watches = self._watches and _has_address(fx)
        if argument is not None and self._watches:
            self._check(argument, fx)
        return fx

    def _check(self, argument: _Watched, fx: Tensor) -> None:
        """
        Raises:
            MapError: if f wrote to its argument or to a value that the solve holds, or if fx lies in the memory of such a
                value and is not the same constant again.
        """
        first, last = _bytes_of(fx)
        # First the values held: without damping, the argument is the last of them.
        for value in self._held:
            if value.first < last and first < value.last:
                if value.written() or value.owner() is not _owner(fx):
                    raise MapError(
                        "f must return a new tensor at each call, it filled the one that it returned before; end it with "
                        ".clone()"
                    )
            elif value.written() and not value.shares_storage(fx):
                raise MapError("f changed a tensor that it returned before; end it with .clone()")
        if argument.written():
            start, end = _bytes_of(argument.t)
            if (start < last and first < end) or not argument.shares_storage(fx):
                raise MapError(
                    "f changed its argument in place; let it work on a copy, z = z.clone(), or use z.mul() for z.mul_()"
                )

    def hold(self, fx: Tensor, f: Tensor, slots: int) -> None:
        """Watches f `(b, D)`, which the solve keeps of what f returned, until `slots` newer ones have come."""
        if not self._watches:
            return
        if len(self._held) == slots:
            del self._held[0]
        self._held.append(_Held(f, _owner(fx)))

    def narrow(self, keep: Tensor) -> None:
        """From now on, f of the samples `keep` `(b,)` int64 alone."""
        assert isinstance(self._f, Selectable)
        self._f = self._f.select(keep)
        self._held.clear()  # the solve holds copies now


class _Watched:
    """A tensor that f must leave as it is, and what tells whether it has been written to since."""

    __slots__ = ("_sample", "_version", "t")

    def __init__(self, t: Tensor, sampled: bool = False) -> None:
        self.t = t
        self._version = -1 if t.is_inference() else t._version
        # Writes through `.data` or NumPy are not counted: the first arguments of a solve are also compared.
        self._sample = _sample(t) if sampled or self._version < 0 else None

    def written(self) -> bool:
        if self._version >= 0 and self.t._version != self._version:
            return True
        return self._sample is not None and _sample(self.t) != self._sample

    def shares_storage(self, fx: Tensor) -> bool:
        """A large buffer in which each answer has a place of its own counts the writes to all of them together."""
        return self.t.untyped_storage().data_ptr() == fx.untyped_storage().data_ptr()


class _Held(_Watched):
    """A value that f returned and that the solve still reads: where it lies, and whose memory that is."""

    __slots__ = ("first", "last", "owner")

    def __init__(self, f: Tensor, owner: Tensor) -> None:
        super().__init__(f)
        self.first, self.last = _bytes_of(f)
        self.owner = ref(owner)


def _bytes_of(t: Tensor) -> tuple[int, int]:
    """Addresses `[first, last)` of a tensor."""
    first = t.data_ptr()
    if t.is_contiguous():
        return first, first + t.nbytes
    return first, first + t.itemsize * (1 + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True)))


def _owner(t: Tensor) -> Tensor:
    return t if t._base is None else t._base


def _has_address(t: Tensor) -> bool:
    """Tensors that are traced or transformed have none, and count no writes of their own."""
    # First whether a compiler looks on, which cannot follow the other questions.
    return not torch.compiler.is_compiling() and type(t) is Tensor and not is_functorch_wrapped_tensor(t)


def _sample(t: Tensor) -> bytes | None:
    """What is compared of a tensor; None on a device, where reading would wait for it, and where its numbers have gaps."""
    if t.device.type != "cpu" or not t.is_contiguous():
        return None
    if t.nbytes <= WHOLE:  # a copy of the bytes is made sooner than a tensor of a few numbers
        return string_at(t.data_ptr(), t.nbytes)
    flat = t.detach().reshape(-1)
    return flat[:: flat.numel() // SAMPLED].double().numpy().tobytes()
