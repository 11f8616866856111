"""Configurations of LDEQ, with the published values where there are any."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from ..errors import ArgumentError
from ..implicit import GRADIENTS
from ..solvers import SOLVERS
from ..solvers.solver import RETURNS, STOP_SCOPES, check_beta, check_choice, check_loop

HISTORY_DTYPES = ("float32", "bfloat16")
MODEL_STOPS = ("relative", "absolute", "landmarks")


@dataclass(frozen=True)
class LDEQConfig:
    """Everything that defines an LDEQ model and its solver.

    Build one with `paper`, `paper_video`, `small` or `tiny` and override fields by keyword:
    ``LDEQConfig.small(landmarks=68)``.
    """

    landmarks: int = 98
    """K, heatmaps in the state; any number >= 1."""
    image_size: int = 256
    """Side of the square crop in pixels; divisible by 4 * 2**depth."""
    width: int = 264
    """Channels of the stem's output and of the hourglass at full resolution; divisible by 4 and by `groups`."""
    width_increment: int = 24
    """Channels added per hourglass level."""
    depth: int = 4
    """Hourglass levels."""
    groups: int = 8
    """Groups of GroupNorm in the cell."""
    beta: float = 0.3
    """Inverse temperature of the heatmap normalisation."""
    eps: float = 1e-4
    """Added to a heatmap's sum in the readout."""
    solver: str = "anderson"
    """``"anderson"``, ``"fixed_point"`` or ``"broyden"``, forward and backward."""
    max_iter: int = 5
    """Cell evaluations of the forward solve; one final evaluation follows."""
    tol: float = 1e-4
    """A sample stops at this residual, or motion of its landmarks, in the unit of `stop`."""
    backward_max_iter: int | None = None
    """Evaluations of the backward solve, the first of which (at zero) is free; `max_iter` if None. The two settings of the
    backward solve are for ``"implicit"`` alone, and may stay where another gradient is compared with it."""
    backward_tol: float | None = None
    """Tolerance of the backward solve, always relative; if None, `tol` where that is relative, too, else 1e-4."""
    stop: str = "relative"
    """What `tol` measures in the forward solve: the residual, ``"relative"`` or ``"absolute"``, or ``"landmarks"``: how far the
    landmarks moved since the last evaluation, in pixels of the input image, mean over the landmarks. A tenth of a pixel is far
    below any model's error."""
    stop_scope: str = "sample"
    returns: str = "f"
    m: int = 6
    """History of Anderson or memory of Broyden. What a solver does not know must stay at its default."""
    ridge: float = 1e-8
    """Anderson's ridge: relative from 0 upwards, absolute below 0."""
    mixing: float = 1.0
    """Anderson's beta, or the step of fixed-point iteration."""
    safeguards: bool = True
    """Anderson's restarts and weight cap."""
    gradient: str = "implicit"
    """``"implicit"``, ``"jfb"`` or ``"unrolled"``."""
    phantom_steps: int = 1
    """Tracked evaluations of ``"jfb"``."""
    final_evaluation: bool = True
    """One more cell evaluation at the solution in inference, as in training."""
    check_every: int = 1
    """Evaluations between two looks of the host whether all samples have stopped; 0 for none, and no synchronisation."""
    compact: float = 0.0
    """Share of the batch, in [0, 1), at or below which the cell is evaluated on the samples that go on alone; 0 never."""
    history_dtype: str = "float32"
    """Anderson's residuals, ``"float32"`` or, for half of their traffic, ``"bfloat16"``."""
    cuda_graphs: bool = False
    """Replay whole solves, forward and backward, as CUDA graphs; needs ``check_every = 0``."""

    def __post_init__(self) -> None:
        if self.landmarks < 1:
            raise ArgumentError(f"landmarks must be >= 1, got {self.landmarks}")
        step = 4 * 2**self.depth
        if self.image_size < step or self.image_size % step:
            near = max(round(self.image_size / step), 1) * step
            raise ArgumentError(
                f"image_size must be divisible by 4 * 2**depth = {step}, got {self.image_size}; the nearest is {near}"
            )
        for level in range(self.depth + 1):
            width = self.width + level * self.width_increment
            if self.width % 4 or width % self.groups:
                raise ArgumentError(
                    f"every hourglass width must be divisible by groups = {self.groups} and the first by 4, got {width} at "
                    f"level {level} (width {self.width}, width_increment {self.width_increment})"
                )
        check_choice("solver", self.solver, tuple(SOLVERS))
        check_choice("gradient", self.gradient, GRADIENTS)
        check_choice("stop", self.stop, MODEL_STOPS)
        check_choice("stop_scope", self.stop_scope, STOP_SCOPES)
        check_choice("returns", self.returns, RETURNS)
        check_choice("history_dtype", self.history_dtype, HISTORY_DTYPES)
        self._check_numbers()
        self._refuse_what_has_no_effect()

    def _check_numbers(self) -> None:
        check_beta(self.beta)
        check_beta(self.mixing, "mixing")
        for name in ("max_iter", "backward_max_iter", "phantom_steps", "m"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise ArgumentError(f"{name} must be >= 1, got {count}")
        for name in ("tol", "backward_tol"):
            tol = getattr(self, name)
            if tol is not None and not 0 <= tol < math.inf:
                raise ArgumentError(f"{name} must be a finite number >= 0, got {tol}")

        check_loop(self.check_every, self.compact, self.stop_scope)
        if self.cuda_graphs and self.check_every:
            raise ArgumentError(f"cuda_graphs needs check_every = 0, got {self.check_every}: a replay cannot look at the host")

    def _refuse_what_has_no_effect(self) -> None:
        for name, choice, users in (
            ("m", "solver", ("anderson", "broyden")),
            ("mixing", "solver", ("anderson", "fixed_point")),
            ("ridge", "solver", ("anderson",)),
            ("safeguards", "solver", ("anderson",)),
            ("history_dtype", "solver", ("anderson",)),
            ("phantom_steps", "gradient", ("jfb",)),
        ):
            value, default, chosen = getattr(self, name), type(self).__dataclass_fields__[name].default, getattr(self, choice)
            if value != default and chosen not in users:
                raise ArgumentError(
                    f"{name} = {value} has no effect with {choice} {chosen!r}, only with {' or '.join(users)}; leave it at "
                    f"{default}"
                )

    @property
    def heatmap_size(self) -> int:
        """Side of a heatmap: a quarter of the image."""
        return self.image_size // 4

    @classmethod
    def paper(cls, *, parity: bool = False, **overrides: Any) -> LDEQConfig:
        """The stills model of the paper (WFLW): 21.825 M parameters at 98 landmarks.

        Architecture and budget are the published ones. The solver differs in what was a fault: its ridge is relative and
        every sample stops on its own. ``parity=True`` brings the published loop back: absolute ridge 1e-4, one stop for the
        batch, x returned, and two start-up evaluations on top of the budget of 5.
        """
        config = cls()
        if parity:
            config = replace(config, max_iter=7, ridge=-1e-4, stop_scope="batch", returns="x", safeguards=False)
        return replace(config, **overrides)

    @classmethod
    def paper_video(cls, *, parity: bool = False, **overrides: Any) -> LDEQConfig:
        """The video model of the paper (WFLW-V): fixed-point iteration, beta 0.4, tolerance 5e-4."""
        config = cls(solver="fixed_point", beta=0.4, tol=5e-4)
        if parity:
            config = replace(config, stop_scope="batch", returns="x")
        return replace(config, **overrides)

    @classmethod
    def small(cls, **overrides: Any) -> LDEQConfig:
        """About 1.3 M parameters at 128 pixels: trains in well under an hour on two CPU cores."""
        config = cls(
            image_size=128,
            width=64,
            width_increment=16,
            depth=3,
            beta=1.0,
            solver="fixed_point",
            max_iter=3,
            backward_max_iter=3,
        )
        return replace(config, **overrides)

    @classmethod
    def tiny(cls, **overrides: Any) -> LDEQConfig:
        """The smallest that learns faces: 64 pixels, for demos and tests."""
        config = cls(
            image_size=64,
            width=32,
            width_increment=8,
            depth=2,
            beta=1.0,
            solver="fixed_point",
            max_iter=3,
            backward_max_iter=3,
        )
        return replace(config, **overrides)
