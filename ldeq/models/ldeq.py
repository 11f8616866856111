"""The Landmark Deep Equilibrium Model (Micaelli et al., CVPR 2023, arXiv 2304.00600)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..brief import brief_repr
from ..errors import ArgumentError
from ..implicit import DEQ
from ..ops import heatmap_readout
from ..solvers import SOLVERS, Solution
from .cell import Cell, Injection, Stem
from .config import LDEQConfig
from .inference.engine import fold_injection


class LDEQOutput(NamedTuple):
    """What the model returns.

    - `landmarks`: `(B, K, 2)`, x and y in unit crop coordinates: pixel index / image size.
    - `std`: `(B, K)`, standard deviation of the heatmap's distribution in the same units.
    - `z`: `(B, K, h, h)`, the heatmaps at the fixed point, float32; the start of the next frame in a video.
    - `solution`: the forward solve's `Solution`.
    """

    landmarks: Tensor
    std: Tensor
    z: Tensor
    solution: Solution

    def __repr__(self) -> str:
        return brief_repr(self)


pytree._register_namedtuple(LDEQOutput, serialized_type_name="ldeq.LDEQOutput")


class LDEQ(nn.Module):
    """Stem, cell and solver; landmarks as the soft-argmax of the fixed point's heatmaps.

    ```python
    model = LDEQ(LDEQConfig.small(landmarks=68))
    out = model(torch.randn(2, 3, 128, 128))
    out.landmarks.shape         # (2, 68, 2)
    ```
    """

    def __init__(self, config: LDEQConfig | None = None) -> None:
        """
        Args:
            config: the paper's stills model if None.
        """
        super().__init__()
        self.config = config = config or LDEQConfig.paper()
        # What evaluates the network where nothing is recorded, on a CPU in float32: "torch" (folded weights), "onnxruntime",
        # or "modules", which folds nothing.
        self.engine = "torch"
        self.stem = Stem(config.width)
        self.deq = DEQ(
            Cell(config.landmarks, config.width, config.width_increment, config.depth, config.groups, config.beta),
            _solver(config, config.max_iter, config.tol, config.stop),
            gradient=config.gradient,
            backward_solver=_solver(
                config,
                config.max_iter if config.backward_max_iter is None else config.backward_max_iter,
                _backward_tol(config),
                # A gradient has no scale of its own: a mean-reduced loss would meet any absolute tolerance at once.
                "relative",
            ),
            phantom_steps=config.phantom_steps,
            final_evaluation=config.final_evaluation,
            cuda_graphs=config.cuda_graphs,
        )

    @classmethod
    def paper(cls, **overrides: Any) -> LDEQ:
        return cls(LDEQConfig.paper(**overrides))

    @classmethod
    def paper_video(cls, **overrides: Any) -> LDEQ:
        return cls(LDEQConfig.paper_video(**overrides))

    @classmethod
    def small(cls, **overrides: Any) -> LDEQ:
        return cls(LDEQConfig.small(**overrides))

    @classmethod
    def tiny(cls, **overrides: Any) -> LDEQ:
        return cls(LDEQConfig.tiny(**overrides))

    @property
    def cell(self) -> Cell:
        """f, in `deq`."""
        return cast(Cell, self.deq.cell)

    def initial_state(self, batch: int) -> Tensor:
        """Zeros `(B, K, h, h)`, float32 (float64 in a float64 model), on the model's device."""
        c = self.config
        device = next(self.parameters()).device
        return torch.zeros(batch, c.landmarks, c.heatmap_size, c.heatmap_size, device=device, dtype=self._state_dtype)

    def with_solver(
        self,
        *,
        solver: str | None = None,
        max_iter: int | None = None,
        tol: float | None = None,
        stop: str | None = None,
        final_evaluation: bool | None = None,
        returns: str | None = None,
    ) -> LDEQ:
        """This model, its very parameters, under another solver, budget or stop; what is None stays.

        Raises:
            ValueError: as `LDEQConfig`.
        """
        given: dict[str, Any] = {
            "solver": solver,
            "max_iter": max_iter,
            "tol": tol,
            "stop": stop,
            "final_evaluation": final_evaluation,
            "returns": returns,
        }
        config = replace(self.config, **{name: value for name, value in given.items() if value is not None})
        with torch.device("meta"):
            other = LDEQ(config)
        other.stem, other.deq.cell, other.engine = self.stem, self.deq.cell, self.engine
        return other.train(self.training)

    def evaluations(self, solution: Solution, recording: bool = False) -> tuple[Tensor, Tensor]:
        """What an answer cost: evaluations of the cell, and passes back through one, per sample.

        Args:
            solution: of this model's forward; `adjoint` counts once backward has run.
            recording: whether autograd recorded that forward.

        Returns:
            `(B,)` and `(B,)` int64. Forward counts the evaluations behind the solve, too. Backward is the vector-Jacobian
            products, that for the weights included: as many as the backward solve has evaluations, whose first is free.
        """
        c = self.config
        steps = c.phantom_steps if c.gradient == "jfb" else 1
        tracked_anyway = recording and c.gradient != "unrolled"
        forward = solution.iterations + (steps if c.final_evaluation or tracked_anyway else 0)
        if not recording:
            return forward, torch.zeros_like(forward)
        if c.gradient == "unrolled":
            return forward, forward
        if c.gradient == "jfb":
            return forward, torch.full_like(forward, steps)
        return forward, solution.adjoint.iterations if solution.adjoint else torch.zeros_like(forward)

    def prepare(self, features: Tensor) -> Tensor | Injection:
        """The stem's features `(B, width, h, h)` as the cell takes them: prepared for a whole solve, if the cell can do that.

        A wrapper around the cell (`DistributedDataParallel`) cannot, and gets the features as they are.
        """
        return self.cell.prepare(features) if hasattr(self.cell, "prepare") else features

    @property
    def _state_dtype(self) -> torch.dtype:
        return torch.promote_types(next(self.parameters()).dtype, torch.float32)

    def forward(self, images: Tensor, z0: Tensor | None = None, max_iter: int | None = None) -> LDEQOutput:
        """
        Args:
            images: `(B, 3, S, S)`, normalised with the ImageNet mean and deviation (`ldeq.data.normalise`); S as configured.
            z0: `(B, K, S/4, S/4)`, where the solve starts, cast to the dtype of `initial_state`; zeros if None.
            max_iter: cell evaluations of this call's solve, in place of the configured budget. The final evaluation, where
                it is configured, comes on top, so that 0 is one evaluation in all: `landmarks` and `z` are those of f(z0).

        Raises:
            ValueError: for images or a start of another shape, saying which one is expected; for a `max_iter` below 0, or
                of 0 without a final evaluation.
        """
        c = self.config
        if images.ndim != 4 or images.shape[1:] != (3, c.image_size, c.image_size):
            raise ArgumentError(f"images must have shape (B, 3, {c.image_size}, {c.image_size}), got {tuple(images.shape)}")
        if z0 is None:
            z0 = self.initial_state(images.shape[0])
        else:
            expected = (images.shape[0], c.landmarks, c.heatmap_size, c.heatmap_size)
            if z0.shape != expected:
                raise ArgumentError(f"z0 must have shape {expected}, got {tuple(z0.shape)}")
            z0 = z0.to(self._state_dtype)
        if max_iter is not None and max_iter < (0 if c.final_evaluation else 1):
            raise ArgumentError(f"max_iter must be >= {0 if c.final_evaluation else 1}, got {max_iter}")
        folded = fold_injection(self, images)
        z, solution = self.deq(z0, self.prepare(self.stem(images)) if folded is None else folded, max_iter)
        xy, std = heatmap_readout(z, coords="unit", eps=c.eps)
        return LDEQOutput(xy, std, z, solution)


def _backward_tol(config: LDEQConfig) -> float:
    if config.backward_tol is not None:
        return config.backward_tol
    return config.tol if config.stop == "relative" else LDEQConfig.tol


def _landmarks_in_pixels(z: Tensor, eps: float, stride: int) -> Tensor:
    """Heatmaps `(B, K, h, h)` to landmarks `(B, K, 2)` in pixels of the input image, `stride` to a pixel of the map."""
    return stride * heatmap_readout(z, coords="pixel", eps=eps).xy


def _solver(config: LDEQConfig, max_iter: int, tol: float, stop: str) -> Any:
    options: dict[str, Any] = {
        "max_iter": max_iter,
        "tol": tol,
        "stop": stop,
        "stop_scope": config.stop_scope,
        "returns": config.returns,
        "check_every": config.check_every,
        "compact": config.compact,
    }
    if stop == "landmarks":
        stride = config.image_size // config.heatmap_size
        options |= {"stop": "motion", "observe": partial(_landmarks_in_pixels, eps=config.eps, stride=stride)}
    if config.solver == "anderson":
        options |= {"m": config.m, "ridge": config.ridge, "beta": config.mixing, "safeguards": config.safeguards}
        options |= {"history_dtype": torch.bfloat16 if config.history_dtype == "bfloat16" else None}
    elif config.solver == "broyden":
        options |= {"m": config.m}
    else:
        options |= {"beta": config.mixing}
    return partial(SOLVERS[config.solver], **options)
