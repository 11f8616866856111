"""Whatever an operator is given: a result within its tensors or a sentence, never a crash.

A crash ends this process: tools/fuzz.py, which starts one for each file, tells of it, and the traceback of faulthandler names
the operator.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fuzzing import case, fuzz
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ldeq.ops import library

pytestmark = pytest.mark.skipif(library.MISSING is not None, reason=f"native library: {library.MISSING}")

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
OTHER_DTYPES = [*DTYPES, torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64]
SIZES = st.sampled_from([0, 1, 2, 3, 7, 16, 17, 33, 64])
DIMENSIONS = st.sampled_from([0, 1, 7, 16, 33, 1000, 4097])
HOSTILE = [float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 3e38, -3e38, 1e-45, 1e308]
REALS = st.sampled_from([0.0, 1.0, 0.3, -1.0, 1e-8, *HOSTILE]) | st.floats(-2, 2)
WHOLE = [0, 1, -1, 2, -2, -3, 15, 16, 17, 2**31, -(2**31) - 1, 2**63 - 1, -(2**63)]
WHOLES = st.sampled_from(WHOLE)
GUARD = 64
"""Elements before and behind a tensor that nobody may write to."""


class Guarded:
    """Makes tensors that lie between elements whose change is found."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.memory: list[tuple[Tensor, Tensor]] = []
        self.generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))

    def __call__(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        count = 1
        for size in shape:
            count *= size
        whole = torch.full((count + 2 * GUARD,), 77, dtype=torch.float64)
        whole[GUARD : GUARD + count] = torch.randn(count, generator=self.generator, dtype=torch.float64)
        if count and self.draw(st.integers(0, 3)) == 0:
            whole[GUARD + self.draw(st.integers(0, count - 1))] = self.draw(st.sampled_from(HOSTILE))
        whole = whole.to(dtype)
        self.memory.append((whole, whole.clone()))
        return whole[GUARD : GUARD + count].view(shape)

    def flags(self, batch: int, columns: int) -> Tensor:
        whole = torch.full((batch * columns + 2 * GUARD,), 77, dtype=torch.int64)
        flags = whole[GUARD : GUARD + batch * columns].view(batch, columns)
        flags.zero_()
        flags[:, 2] = 1
        flags[:, 3] = self.draw(st.sampled_from([-2, -1, 0, 1]))
        flags[:, 5:] = 1
        for _ in range(self.draw(st.integers(0, 2)) if flags.numel() else 0):
            flags[self.draw(st.integers(0, batch - 1)), self.draw(st.integers(0, columns - 1))] = self.draw(WHOLES)
        self.memory.append((whole, whole.clone()))
        return flags

    def check(self) -> None:
        for now, before in self.memory:
            for side in (slice(None, GUARD), slice(-GUARD, None)):
                assert torch.equal(now[side], before[side]), "an operator wrote outside its tensor"


def hurt(draw: st.DrawFn, t: Tensor) -> Any:
    """A tensor that is wrong in one way, or something else altogether."""
    kind = draw(st.integers(0, 11))
    if kind == 0:
        return t.to(draw(st.sampled_from(OTHER_DTYPES)))
    if kind == 1:
        return t.unsqueeze(draw(st.integers(0, t.dim())))
    if kind == 2:
        return t.flatten()
    if kind == 3:
        return t.reshape(-1)[:0]
    if kind == 4:
        return torch.empty(draw(st.lists(SIZES, max_size=3)), dtype=t.dtype)
    if kind == 5:
        return t.transpose(0, -1) if t.dim() else t
    if kind == 6:
        return t[..., ::2] if t.dim() else t
    if kind == 7:
        return t.new_zeros(()).expand(t.shape)
    if kind == 8:
        return t.to("meta")
    if kind == 9:
        return t[1:] if t.dim() and len(t) else t
    if kind == 10:
        # Without an element a tensor may have any other size.
        sizes = [draw(st.sampled_from([1, 2**31, 2**32, 2**40])) for _ in t.shape[1:]]
        return t.new_empty((0, *[1 for _ in sizes])).expand(0, *sizes)
    return t.clone().requires_grad_() if t.is_floating_point() else t.flip(0) if t.dim() else t


def attack(draw: st.DrawFn, arguments: dict[str, Any]) -> None:
    """Makes up to three arguments wrong."""
    for name in draw(st.lists(st.sampled_from(list(arguments)), max_size=3)):
        value = arguments[name]
        if isinstance(value, Tensor):
            arguments[name] = hurt(draw, value)
        elif isinstance(value, list):
            i = draw(st.integers(0, len(value)))
            arguments[name] = value[:i] + [hurt(draw, v) for v in value[i : i + 1]] + value[i + draw(st.integers(0, 1)) :]
        elif isinstance(value, bool):
            arguments[name] = not value
        elif isinstance(value, int):
            arguments[name] = draw(WHOLES)
        elif isinstance(value, float):
            arguments[name] = draw(REALS)


def call(name: str, arguments: dict[str, Any], guarded: Guarded) -> Any:
    """What the operator answers; None after an error of one sentence."""
    with case():
        try:
            with torch.no_grad():
                return getattr(torch.ops.ldeq, name)(**arguments)
        except NotImplementedError:  # the dispatcher's, which has no kernel for such a tensor
            return None
        except RuntimeError as error:
            # torch adds the place in its own code, if it is told to, and lists of overloads.
            assert str(error).splitlines()[0]
            assert "INTERNAL ASSERT" not in str(error), str(error)
        finally:
            guarded.check()
    return None


def step_arguments(draw: st.DrawFn, make: Guarded, columns: int) -> dict[str, Any]:
    batch, dim, dtype = draw(SIZES), draw(DIMENSIONS), draw(st.sampled_from(DTYPES))
    work = torch.float64 if dtype == torch.float64 else torch.float32
    optional = {
        "evicted": make(batch, dim, dtype=dtype) if draw(st.booleans()) else None,
        "x_next": make(batch, dim, dtype=work) if draw(st.booleans()) else None,
        "x_cast": make(batch, dim, dtype=dtype) if draw(st.booleans()) else None,
    }
    return {
        "x": make(batch, dim, dtype=work),
        "measurements": make(batch, 5, dtype=torch.float64),
        "flags": make.flags(batch, 5 + columns),
        "saved_best": make(batch, dim, dtype=dtype),
        **optional,
        "slot": 0,
        "beta": draw(REALS),
        "tol": draw(REALS),
        "relative": draw(st.booleans()),
        "batch_stop": draw(st.booleans()),
    }


@fuzz
@given(data=st.data())
def test_anderson_steps(data: st.DataObject) -> None:
    draw = data.draw
    make = Guarded(draw)
    m = draw(st.integers(1, 17))
    n = draw(st.integers(1, m))
    arguments = step_arguments(draw, make, m)
    x, kept = arguments["x"], arguments["saved_best"]
    ring = torch.bfloat16 if draw(st.booleans()) else x.dtype
    arguments |= {
        "f_ring": [make(*x.shape, dtype=kept.dtype) for _ in range(n)],
        "g_ring": make(m, *x.shape, dtype=ring),
        "gram": make(len(x), m, m, dtype=torch.float64),
        "slot": draw(st.integers(0, n - 1)),
        "ridge": draw(REALS),
        "safeguards": draw(st.booleans()),
    }
    attack(draw, arguments)
    call("anderson_step", arguments, make)


@fuzz
@given(data=st.data())
def test_fixed_point_steps(data: st.DataObject) -> None:
    draw = data.draw
    make = Guarded(draw)
    arguments = step_arguments(draw, make, 0)
    arguments["f"] = make(*arguments["x"].shape, dtype=arguments["saved_best"].dtype)
    attack(draw, arguments)
    call("fixed_point_step", arguments, make)


@fuzz
@given(data=st.data())
def test_best_so_far(data: st.DataObject) -> None:
    draw = data.draw
    make = Guarded(draw)
    batch, dim, dtype = draw(SIZES), draw(DIMENSIONS), draw(st.sampled_from(DTYPES))
    arguments: dict[str, Any] = {
        "ring": [make(batch, dim, dtype=dtype) for _ in range(draw(st.integers(0, 17)))],
        "saved_best": make(batch, dim, dtype=dtype),
        "start": make(batch, dim, dtype=dtype),
        "flags": make.flags(batch, 5 + draw(st.integers(0, 16))),
    }
    attack(draw, arguments)
    out = call("best_so_far", arguments, make)
    tensors = [*arguments["ring"], *(arguments[name] for name in ("saved_best", "start", "flags"))]
    if out is not None and all(t.device.type == "cpu" for t in tensors):
        # Whatever is no slot and not the saved copy is the start.
        choices = {-1: arguments["saved_best"], **dict(enumerate(arguments["ring"]))}
        for sample, row in enumerate(arguments["flags"].tolist()):
            wanted = choices.get(row[3], arguments["start"])[sample]
            assert torch.equal(out[sample].nan_to_num(5), wanted.nan_to_num(5)), row[3]


AXES = {"scale_x": 1.0, "offset_x": 0.0, "scale_y": 1.0, "offset_y": 0.0}


@fuzz
@given(data=st.data())
def test_softargmax(data: st.DataObject) -> None:
    draw = data.draw
    make = Guarded(draw)
    shape = draw(st.lists(SIZES, min_size=4, max_size=4).filter(lambda s: s[0] * s[1] * s[2] * s[3] < 1 << 18))
    dtype = draw(st.sampled_from(DTYPES))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    maps = make(*shape, dtype=dtype)
    betas = draw(st.sampled_from([None, (), (shape[1],)]))
    shared: dict[str, Any] = {
        "betas": None if betas is None else make(*betas, dtype=torch.float64),
        "beta": draw(REALS),
    }
    stats = make(*shape[:2], 8, dtype=torch.float64)
    gradients = {
        "grad_heatmap": make(*shape, dtype=dtype) if draw(st.booleans()) else None,
        "grad_xy": make(*shape[:2], 2, dtype=wide) if draw(st.booleans()) else None,
        "grad_std": make(*shape[:2], dtype=wide) if draw(st.booleans()) else None,
    }
    some = {k: v for k, v in gradients.items() if k != "grad_heatmap"}
    name, arguments = draw(
        st.sampled_from(
            [
                ("softargmax_forward", {"logits": maps, **shared, "eps": 1e-4, **AXES, "want_heatmap": True}),
                ("softargmax_backward", {"logits": maps, **shared, "stats": stats, **gradients, **AXES}),
                ("heatmap_readout_forward", {"heatmap": maps, "eps": 1e-4, **AXES}),
                ("heatmap_readout_backward", {"heatmap": maps, "stats": stats, **some, **AXES}),
            ]
        )
    )
    arguments = dict(arguments)
    attack(draw, arguments)
    call(name, arguments, make)
