"""Whatever an operator is given: a result within its tensors or a sentence, never a crash.

A crash ends this process: tools/fuzz.py, which starts one for each file, tells of it, and the traceback of faulthandler names
the operator.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from dice import Dice
from fuzzing import SEEDS, case, fuzz, mutations
from hypothesis import given
from torch import Tensor

from ldeq.ops import library

pytestmark = pytest.mark.skipif(library.MISSING is not None, reason=f"native library: {library.MISSING}")

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
OTHER_DTYPES = [*DTYPES, torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64]
SIZES = [0, 1, 2, 3, 7, 16, 17, 33, 64]
DIMENSIONS = [0, 1, 7, 16, 33, 1000, 4097]
HOSTILE = [float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 3e38, -3e38, 1e-45, 1e308]
REALS = [0.0, 1.0, 0.3, -1.0, 1e-8, *HOSTILE]
WHOLES = [0, 1, -1, 2, -2, -3, 15, 16, 17, 2**31, -(2**31) - 1, 2**63 - 1, -(2**63)]
GUARD = 64
"""Elements before and behind a tensor that nobody may write to."""


def real(dice: Dice) -> float:
    return dice.choice(REALS) if dice.maybe() else dice.uniform(-2, 2)


def dimension(dice: Dice) -> int:
    """Mostly a small one: the others take most of the time."""
    return dice.choice(DIMENSIONS if dice.maybe(0.1) else DIMENSIONS[:5])


class Guarded:
    """Makes tensors that lie between elements whose change is found."""

    def __init__(self, dice: Dice) -> None:
        self.dice = dice
        self.memory: list[tuple[Tensor, Tensor]] = []
        self.generator = torch.Generator().manual_seed(dice.randint(0, 2**20))

    def __call__(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        count = 1
        for size in shape:
            count *= size
        whole = torch.full((count + 2 * GUARD,), 77, dtype=torch.float64)
        whole[GUARD : GUARD + count] = torch.randn(count, generator=self.generator, dtype=torch.float64)
        if count and self.dice.randint(0, 3) == 0:
            whole[GUARD + self.dice.randint(0, count - 1)] = self.dice.choice(HOSTILE)
        whole = whole.to(dtype)
        self.memory.append((whole, whole.clone()))
        return whole[GUARD : GUARD + count].view(shape)

    def flags(self, batch: int, columns: int) -> Tensor:
        whole = torch.full((batch * columns + 2 * GUARD,), 77, dtype=torch.int64)
        flags = whole[GUARD : GUARD + batch * columns].view(batch, columns)
        flags.zero_()
        flags[:, 2] = 1
        flags[:, 3] = self.dice.choice([-2, -1, 0, 1])
        flags[:, 5:] = 1
        for _ in range(self.dice.randint(0, 2) if flags.numel() else 0):
            flags[self.dice.randint(0, batch - 1), self.dice.randint(0, columns - 1)] = self.dice.choice(WHOLES)
        self.memory.append((whole, whole.clone()))
        return flags

    def check(self) -> None:
        for now, before in self.memory:
            for side in (slice(None, GUARD), slice(-GUARD, None)):
                assert torch.equal(now[side], before[side]), "an operator wrote outside its tensor"


def hurt(dice: Dice, t: Tensor) -> Any:
    """A tensor that is wrong in one way, or something else altogether."""
    kind = dice.randint(0, 11)
    if kind == 0:
        return t.to(dice.choice(OTHER_DTYPES))
    if kind == 1:
        return t.unsqueeze(dice.randint(0, t.dim()))
    if kind == 2:
        return t.flatten()
    if kind == 3:
        return t.reshape(-1)[:0]
    if kind == 4:
        return torch.empty(dice.some(0, 3, lambda: dice.choice(SIZES)), dtype=t.dtype)
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
        sizes = [dice.choice([1, 2**31, 2**32, 2**40]) for _ in t.shape[1:]]
        return t.new_empty((0, *[1 for _ in sizes])).expand(0, *sizes)
    return t.clone().requires_grad_() if t.is_floating_point() else t.flip(0) if t.dim() else t


def attack(dice: Dice, arguments: dict[str, Any]) -> None:
    """Makes up to three arguments wrong."""
    for name in dice.sample(list(arguments), dice.randint(0, 3)):
        value = arguments[name]
        if isinstance(value, Tensor):
            arguments[name] = hurt(dice, value)
        elif isinstance(value, list):
            i = dice.randint(0, len(value))
            arguments[name] = value[:i] + [hurt(dice, v) for v in value[i : i + 1]] + value[i + dice.randint(0, 1) :]
        elif isinstance(value, bool):
            arguments[name] = not value
        elif isinstance(value, int):
            arguments[name] = dice.choice(WHOLES)
        elif isinstance(value, float):
            arguments[name] = real(dice)


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


def step_arguments(dice: Dice, make: Guarded, columns: int) -> dict[str, Any]:
    batch, dim, dtype = dice.choice(SIZES), dimension(dice), dice.choice(DTYPES)
    work = torch.float64 if dtype == torch.float64 else torch.float32
    optional = {
        "evicted": make(batch, dim, dtype=dtype) if dice.maybe() else None,
        "x_next": make(batch, dim, dtype=work) if dice.maybe() else None,
        "x_cast": make(batch, dim, dtype=dtype) if dice.maybe() else None,
    }
    return {
        "x": make(batch, dim, dtype=work),
        "measurements": make(batch, 5, dtype=torch.float64),
        "flags": make.flags(batch, 5 + columns),
        "saved_best": make(batch, dim, dtype=dtype),
        **optional,
        "slot": 0,
        "beta": real(dice),
        "tol": real(dice),
        "relative": dice.maybe(),
        "batch_stop": dice.maybe(),
    }


@fuzz(slower=2)
@given(seed=SEEDS)
def test_anderson_steps(seed: int) -> None:
    for dice in mutations(seed):
        anderson_steps(dice)


def anderson_steps(dice: Dice) -> None:
    make = Guarded(dice)
    m = dice.randint(1, 17)
    n = dice.randint(1, m)
    arguments = step_arguments(dice, make, m)
    x, kept = arguments["x"], arguments["saved_best"]
    ring = torch.bfloat16 if dice.maybe() else x.dtype
    arguments |= {
        "f_ring": [make(*x.shape, dtype=kept.dtype) for _ in range(n)],
        "g_ring": make(m, *x.shape, dtype=ring),
        "gram": make(len(x), m, m, dtype=torch.float64),
        "slot": dice.randint(0, n - 1),
        "ridge": real(dice),
        "safeguards": dice.maybe(),
    }
    attack(dice, arguments)
    call("anderson_step", arguments, make)


@fuzz()
@given(seed=SEEDS)
def test_fixed_point_steps(seed: int) -> None:
    for dice in mutations(seed):
        fixed_point_steps(dice)


def fixed_point_steps(dice: Dice) -> None:
    make = Guarded(dice)
    arguments = step_arguments(dice, make, 0)
    arguments["f"] = make(*arguments["x"].shape, dtype=arguments["saved_best"].dtype)
    attack(dice, arguments)
    call("fixed_point_step", arguments, make)


@fuzz(slower=2)
@given(seed=SEEDS)
def test_best_so_far(seed: int) -> None:
    for dice in mutations(seed):
        best_so_far(dice)


def best_so_far(dice: Dice) -> None:
    make = Guarded(dice)
    batch, dim, dtype = dice.choice(SIZES), dimension(dice), dice.choice(DTYPES)
    arguments: dict[str, Any] = {
        "ring": [make(batch, dim, dtype=dtype) for _ in range(dice.randint(0, 17))],
        "saved_best": make(batch, dim, dtype=dtype),
        "start": make(batch, dim, dtype=dtype),
        "flags": make.flags(batch, 5 + dice.randint(0, 16)),
    }
    attack(dice, arguments)
    out = call("best_so_far", arguments, make)
    tensors = [*arguments["ring"], *(arguments[name] for name in ("saved_best", "start", "flags"))]
    if out is not None and all(t.device.type == "cpu" for t in tensors):
        # Whatever is no slot and not the saved copy is the start.
        choices = {-1: arguments["saved_best"], **dict(enumerate(arguments["ring"]))}
        for sample, row in enumerate(arguments["flags"].tolist()):
            wanted = choices.get(row[3], arguments["start"])[sample]
            assert torch.equal(out[sample].nan_to_num(5), wanted.nan_to_num(5)), row[3]


AXES = {"scale_x": 1.0, "offset_x": 0.0, "scale_y": 1.0, "offset_y": 0.0}


@fuzz()
@given(seed=SEEDS)
def test_softargmax(seed: int) -> None:
    for dice in mutations(seed):
        softargmax(dice)


def softargmax(dice: Dice) -> None:
    make = Guarded(dice)
    shape = [dice.choice(SIZES) for _ in range(4)]
    while math.prod(shape) >= 1 << 14 and not (dice.maybe(0.02) and math.prod(shape) < 1 << 18):
        shape = [dice.choice(SIZES) for _ in range(4)]
    dtype = dice.choice(DTYPES)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    maps = make(*shape, dtype=dtype)
    betas = dice.choice([None, (), (shape[1],)])
    shared: dict[str, Any] = {
        "betas": None if betas is None else make(*betas, dtype=torch.float64),
        "beta": real(dice),
    }
    stats = make(*shape[:2], 8, dtype=torch.float64)
    gradients = {
        "grad_heatmap": make(*shape, dtype=dtype) if dice.maybe() else None,
        "grad_xy": make(*shape[:2], 2, dtype=wide) if dice.maybe() else None,
        "grad_std": make(*shape[:2], dtype=wide) if dice.maybe() else None,
    }
    some = {k: v for k, v in gradients.items() if k != "grad_heatmap"}
    name, arguments = dice.choice(
        [
            ("softargmax_forward", {"logits": maps, **shared, "eps": 1e-4, **AXES, "want_heatmap": True}),
            ("softargmax_backward", {"logits": maps, **shared, "stats": stats, **gradients, **AXES}),
            ("heatmap_readout_forward", {"heatmap": maps, "eps": 1e-4, **AXES}),
            ("heatmap_readout_backward", {"heatmap": maps, "stats": stats, **some, **AXES}),
        ]
    )
    arguments = dict(arguments)
    attack(dice, arguments)
    call(name, arguments, make)
