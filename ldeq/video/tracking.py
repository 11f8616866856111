r"""Recurrence without recurrence (RwR): faces followed from frame to frame, the state of each carried to its next frame.

A model trained on stills is given memory at test time (Micaelli et al., CVPR 2023, section 4): frame t starts its solve at
the state of frame t - 1, z_0(t) = z(t - 1), and stops after a few evaluations of the cell, so that among the plausible fixed
points it stays by the one nearest to the last frame's. Here the first frame of a face gets a full solve from zeros, and the
crop, whose own trembling would otherwise be most of the flicker, follows the landmarks with a slack.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ..brief import brief_repr
from ..confidence import Calibration, check_min_score
from ..data import Layout, SquareBox, crop_box, get_layout, invert, normalise, transform_points, warp
from ..errors import ArgumentError
from ..models import LDEQ
from .crops import VIEWS, follow_crop, move_heatmaps, view_matrix, view_square
from .plausible import SMALLEST, has_leapt, impossible

# A cell that sees no face does not settle. The residual of the shipped model's full solve stays below 0.12 on 200 faces of
# HELEN test and below 0.13 on 99 % of the frames of six clips; on what surrounds people in clips it lies above 0.23 (99 %). The
# residual of a solve that starts from the last frame's state says nothing of the kind: it measures motion as well.
SETTLED = 0.22

# The mean deviation is free of charge, but overlaps: faces reach 0.1 of the crop in fast motion, background starts at 0.036.
# Growth by this factor since the last full solve is reason enough to check,
# at most every few frames.
SPREAD = 1.5
SUSPECT_EVERY = 5

# Carried and freshly solved landmarks that differ by this share of the face's extent, on average, are not of the same face.
DRIFT = 0.15

MOST_CROPS = 64
"""Crops that the model sees together; memory grows with them, and from some dozen on the speed no longer does."""


@dataclass(frozen=True)
class TrackingSettings:
    """How faces are followed."""

    rwr: bool = True
    """Start each frame from the last one's state; off solves each frame alone, from zeros, with the model's own budget."""
    iters: int = 1
    """Cell evaluations a frame with RwR, the final one included; the released settings of the paper spend 2."""
    views: int = 1
    """Ways in which each face is looked at, 1, 2 or 4: as it is, mirrored, and both from half a heatmap cell away. Each view
    carries a state of its own, landmarks are their mean. With one evaluation, 4 views cost what a full solve of 3 + 1 does."""
    register: bool = False
    """Move the state with the crop: resample its heatmaps into the new crop where the crop moved."""
    slack: float = 0.02
    """The crop's centre stays where it is until the face's is this far off, in sides of the crop, and then stays that far."""
    side_slack: float = 0.04
    """The same for the crop's side, as a ratio."""
    check_every: int = 30
    """Every so many frames, and where the heatmaps spread, a full solve checks that there is a face and that the carried state
    has not drifted off it; 0 never checks."""
    settled: float = SETTLED
    """Residual of a full solve above which there may be no face; a model that is far less trained needs a larger one."""
    min_score: float | None = None
    """Score of a full solve below which there may be no face: None for what the model's calibration says, 0 for no limit. It
    has no effect on a model without a calibration."""
    patience: int = 3
    """Checks failed in a row after which a face counts as lost."""
    first: Literal["full", "budget"] = "full"
    """How the first frame of a face is solved with RwR: in full, or with the budget of every frame, from zeros. With
    ``"budget"`` and boxes that are given, nothing is judged, and no face is ever lost."""

    @classmethod
    def released(cls) -> TrackingSettings:
        """RwR as the paper's release runs it: two evaluations a frame, the first frame included, and nothing besides.

        The state stays where it is when the crop moves, and nobody checks whether there is a face. Published figures belong to
        these settings, in crops around boxes that are given.
        """
        return cls(iters=2, slack=0.0, side_slack=0.0, check_every=0, first="budget")

    def __post_init__(self) -> None:
        if self.first not in ("full", "budget"):
            raise ArgumentError(f"first must be 'full' or 'budget', got {self.first!r}")
        check_min_score(self.min_score)
        if self.views not in (1, 2, 4):
            raise ArgumentError(f"views must be 1, 2 or 4, got {self.views}")
        for name, low in (("iters", 1), ("slack", 0), ("side_slack", 0), ("check_every", 0), ("patience", 1)):
            value = getattr(self, name)
            if not value >= low:
                raise ArgumentError(f"{name} must be >= {low}, got {value}")


@dataclass
class FaceState:
    """What is kept of a face between two frames. Make one with `Tracker.start`; to reset a face is to replace its state.

    Attributes:
        square: the next crop in pixels, or None where every frame's box is given.
        refine: how often the first crop is taken anew around the landmarks found in it.
        z: `(views, K, h, h)` heatmaps of the last frame, None before the first.
        z_square: the crop that `z` belongs to.
        spread: mean deviation over the side of the crop, in the last full solve.
        residual: of that solve.
        doubts: checks failed in a row.
        frames: frames since the start.
        checked: frames since the last check.
        suspect: whether the heatmaps spread so much that the next frame is checked.
    """

    square: SquareBox | None
    refine: int = 0
    z: Tensor | None = None
    z_square: SquareBox | None = None
    spread: float = 0.0
    residual: float = float("nan")
    doubts: int = 0
    frames: int = 0
    checked: int = 0
    suspect: bool = False

    __repr__ = brief_repr


@dataclass(frozen=True)
class Estimate:
    """One face in one frame.

    Attributes:
        points: `(K, 2)` float32 in pixels of the frame, not filtered.
        std: `(K,)` float32, the model's deviation of each point in the same pixels.
        square: the crop they were found in.
        residual: ||f(z) - z|| / ||f(z)|| of the solve; with a single evaluation z is the last frame's state.
        evaluations: of the cell, a check's included.
        reset: why the points come from a full solve and not from the carried state: ``"start"``, or that it had drifted; None.
        lost: why there is no face any more, or None. The face must be found anew.
        score: whether there is a face, 0 to 1, from the last full solve's residual and this frame's deviations; None for a
            model without a calibration.
        deviation: `(K,)` float32, how far each point is expected to lie from the truth, in pixels; None likewise.
    """

    points: NDArray[np.float32]
    std: NDArray[np.float32]
    square: SquareBox
    residual: float
    evaluations: int
    reset: str | None
    lost: str | None
    score: float | None = None
    deviation: NDArray[np.float32] | None = None

    __repr__ = brief_repr


@dataclass
class Stopwatch:
    """Seconds spent in each stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, stage: str, begin: float) -> float:
        """Adds the time since `begin`, and returns the time now."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - begin
        return now


class Tracker:
    """Follows faces, several at a time: the faces of one frame, or one face in each of several videos.

    ```python
    tracker = Tracker(model, crop_scale=1.2)
    states = [tracker.start(box) for box in boxes]
    for frame in frames:
        estimates = tracker.step([frame] * len(states), states)
    ```

    It holds no state of its own but the time it took (`watch`, stages ``crop`` and ``model``).
    """

    def __init__(
        self,
        model: LDEQ,
        crop_scale: float = 1.2,
        settings: TrackingSettings | None = None,
        layout: Layout | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        """
        Args:
            model: in eval mode, on the device it shall run on.
            crop_scale: side of the crop over the longer side of the landmarks' box, as the model was trained.
            settings: the defaults if None.
            layout: of the model's landmarks, for views that are mirrored; the known one of their number if None.
            calibration: by which its answers are judged; without one there is no score.
        """
        self.model, self.crop_scale, self.settings = model, crop_scale, settings or TrackingSettings()
        self.layout, self.calibration = layout, calibration
        # A loop that returns x, not f(x), would spend an evaluation to find the state that it starts from.
        self._carrying = model if model.config.returns == "f" else model.with_solver(returns="f")
        self.watch = Stopwatch()

    def start(self, box: ArrayLike | None = None, refine: int = 0) -> FaceState:
        """The state of a face that has not been looked at yet.

        Args:
            box: (x1, y1, x2, y2) in pixels of the first frame, tight around the landmarks; None where `step` gets a box for
                every frame.
            refine: how often the first crop is taken anew around the landmarks found: 0 for an exact box, 2 behind a
                detector.
        """
        square = None if box is None else crop_box("box", box=np.asarray(box, np.float64), scale=self.crop_scale)
        return FaceState(square, refine)

    @torch.no_grad()
    def step(
        self, frames: Sequence[NDArray[np.uint8]], states: Sequence[FaceState], boxes: ArrayLike | None = None
    ) -> list[Estimate]:
        """Takes every face one frame further: one call of the model for the faces under way, one for those that start.

        Args:
            frames: the picture of each face, `(H, W, 3)` RGB uint8; the same one several times for faces of one frame.
            states: one a face; they are updated.
            boxes: `(N, 4)` tight boxes in pixels of these frames, to crop by; if None, the crop follows the landmarks.

        Returns:
            One `Estimate` a face, in the order of `states`.

        Raises:
            ValueError: where the numbers of frames, states and boxes differ, or a face has no box to start from.
        """
        if len(frames) != len(states):
            raise ArgumentError(f"{len(states)} states need as many frames, got {len(frames)}")
        squares = self._squares(states, boxes)
        starting = [i for i, s in enumerate(states) if s.z is None or not self.settings.rwr]
        fresh = [] if self._small_start else starting
        carried = [i for i in range(len(states)) if i not in fresh]
        rounds = 0 if boxes is not None else max((states[i].refine for i in starting), default=0)
        for done in range(rounds):
            coarse = [i for i in starting if states[i].refine > done]
            for i, answer in zip(coarse, self._solve(coarse, frames, squares, None), strict=True):
                # What is no face can answer with a point; its crop stays, and the last round will say so.
                if np.ptp(answer.points, axis=0).max() >= SMALLEST:
                    squares[i] = crop_box("landmarks", points=answer.points, scale=self.crop_scale)
        checks = [i for i in carried if self._due(states[i])]
        cold = dict(zip(fresh + checks, self._solve(fresh + checks, frames, squares, None), strict=True))
        warm = dict(zip(carried, self._solve(carried, frames, squares, states), strict=True))
        if boxes is None:
            self._look_again(frames, states, squares, warm, cold)
        estimates = []
        for i, state in enumerate(states):
            estimates.append(self._conclude(state, warm.get(i), cold.get(i), squares[i], frames[i].shape[:2], boxes is None))
        return estimates

    def _look_again(
        self,
        frames: Sequence[NDArray[np.uint8]],
        states: Sequence[FaceState],
        squares: list[SquareBox],
        warm: dict[int, _Answer],
        cold: dict[int, _Answer],
    ) -> None:
        """Replaces crop and answers of the known faces that have leapt."""
        first = {i: warm.get(i) or cold[i] for i, state in enumerate(states) if state.frames}
        leapt = [i for i, answer in first.items() if has_leapt(answer.points, squares[i])]
        for i in leapt:
            squares[i] = crop_box("landmarks", points=first[i].points, scale=self.crop_scale)
        for i, answer in zip(leapt, self._solve(leapt, frames, squares, None), strict=True):
            spent = answer.evaluations + sum(a[i].evaluations for a in (warm, cold) if i in a)
            warm.pop(i, None)
            cold[i] = replace(answer, evaluations=spent)

    @property
    def _small_start(self) -> bool:
        return self.settings.rwr and self.settings.first == "budget"

    def _due(self, state: FaceState) -> bool:
        every = self.settings.check_every
        return every > 0 and state.z is not None and (state.checked + 1 >= every or state.doubts > 0 or state.suspect)

    def _squares(self, states: Sequence[FaceState], boxes: ArrayLike | None) -> list[SquareBox]:
        if boxes is None:
            squares = [s.square for s in states if s.square is not None]
            if len(squares) < len(states):
                raise ArgumentError("a face without a crop: give start() a box, or step() the boxes of every frame")
            return squares
        array = np.asarray(boxes, np.float64)
        if array.shape != (len(states), 4):
            raise ArgumentError(f"boxes must have shape ({len(states)}, 4), x1 y1 x2 y2 in pixels, got {array.shape}")
        return [crop_box("box", box=box, scale=self.crop_scale) for box in array]

    def _solve(
        self,
        chosen: Sequence[int],
        frames: Sequence[NDArray[np.uint8]],
        squares: Sequence[SquareBox],
        states: Sequence[FaceState] | None,
    ) -> list[_Answer]:
        """Landmarks of the chosen faces: from the states that they carry, or with a full solve from zeros for None."""
        most = max(1, MOST_CROPS // self.settings.views)
        if len(chosen) > most:
            parts = (chosen[start : start + most] for start in range(0, len(chosen), most))
            return [answer for part in parts for answer in self._solve(part, frames, squares, states)]
        if not chosen:
            return []
        begin = time.perf_counter()
        config = self.model.config
        parameter = next(self.model.parameters())
        device, dtype = parameter.device, parameter.dtype
        views = VIEWS[: self.settings.views]
        matrices = [view_matrix(squares[i], view, config.image_size) for i in chosen for view in views]
        seen = [i for i in chosen for _ in views]
        crops = np.stack([warp(frames[i], m, config.image_size) for i, m in zip(seen, matrices, strict=True)])
        begin = self.watch.add("crop", begin)
        images = normalise(torch.from_numpy(crops).to(device).permute(0, 3, 1, 2), dtype)
        if states is None:
            z0, budget = None, config.max_iter
            out = self.model(images)
        else:
            z0 = self._carried([states[i] for i in chosen], [squares[i] for i in chosen])
            budget = self.settings.iters - config.final_evaluation
            out = self._carrying(images, z0, budget)
        residual = out.solution.residual
        if budget == 0 and z0 is not None:
            residual = (out.z - z0).flatten(1).norm(dim=1) / out.z.flatten(1).norm(dim=1)
        # One transfer: each would wait for the device.
        numbers = torch.cat((out.landmarks.flatten(1), out.std, residual[:, None], out.solution.iterations[:, None]), 1)
        table = numbers.float().cpu().numpy()
        self.watch.add("model", begin)
        k, n = config.landmarks, len(views)
        mirror = get_layout(self.layout or k).mirror_index if n > 1 else np.arange(k)
        answers = []
        for place, i in enumerate(chosen):
            here = slice(place * n, place * n + n)
            points, std = [], []
            for row, matrix, view in zip(table[here], matrices[here], views, strict=True):
                order = mirror if view.mirrored else np.arange(k)
                points.append(transform_points(invert(matrix), row[: 2 * k].reshape(k, 2) * config.image_size)[order])
                std.append((row[2 * k : 3 * k] * np.float32(squares[i].side))[order])
            answers.append(
                _Answer(
                    np.mean(points, axis=0),
                    np.sqrt(np.mean(np.square(std), axis=0)),
                    out.z[here],
                    float(table[here, -2].mean()),
                    int(table[here, -1].sum()) + n * config.final_evaluation,
                )
            )
        return answers

    def _carried(self, states: Sequence[FaceState], squares: Sequence[SquareBox]) -> Tensor:
        z = torch.cat([self.model.initial_state(self.settings.views) if s.z is None else s.z for s in states])
        if not self.settings.register:
            return z
        views = VIEWS[: self.settings.views]
        size = self.model.config.image_size
        moved, before, after = [], [], []
        for i, state in enumerate(states):
            if state.z_square is not None and state.z_square != squares[i]:
                moved += [i * len(views) + j for j in range(len(views))]
                before += [view_square(state.z_square, view, size) for view in views]
                after += [view_square(squares[i], view, size) for view in views]
        if moved:
            z[moved] = move_heatmaps(z[moved], before, after)
        return z

    def _conclude(
        self,
        state: FaceState,
        warm: _Answer | None,
        cold: _Answer | None,
        square: SquareBox,
        shape: Sequence[int],
        follow: bool,
    ) -> Estimate:
        """Judges one face's answers, from the carried state and from a full solve, and takes its state further."""
        answer = warm or cold
        assert answer is not None
        reset = "start" if state.frames == 0 else None
        judged = follow or not self._small_start
        lost = impossible(answer.points, answer.std, square.side / self.crop_scale, shape) if judged else None
        state.checked += 1
        if cold is not None:
            state.checked = 0
            doubt = self._doubt(cold)
            state.doubts = state.doubts + 1 if doubt else 0
            # Nothing speaks for a face that does not settle at its start.
            if doubt and state.doubts >= (self.settings.patience if state.frames else 1):
                lost = lost or doubt
            if warm is not None and not doubt:
                drift = float(np.linalg.norm(warm.points - cold.points, axis=1).mean()) * self.crop_scale / square.side
                if drift > DRIFT:
                    answer, reset = cold, f"the carried state was {100 * drift:.0f} % of the face away"
                    lost = impossible(cold.points, cold.std, square.side / self.crop_scale, shape)
            state.spread, state.residual = float(cold.std.mean()) / square.side, cold.residual
        state.suspect = float(answer.std.mean()) / square.side > SPREAD * state.spread and state.checked >= SUSPECT_EVERY
        if lost is None:
            state.z, state.z_square = answer.z, square
            state.frames += 1
            if follow:
                target = crop_box("landmarks", points=answer.points, scale=self.crop_scale)
                # A crop that fits is worth more than a still one where nothing has been shown yet.
                still = state.frames > 1 and reset is None
                state.square = follow_crop(square, target, self.settings.slack, self.settings.side_slack) if still else target
        evaluations = sum(a.evaluations for a in (warm, cold) if a is not None)
        # Without any full solve, the first frame's is the nearest to one.
        state.residual = answer.residual if math.isnan(state.residual) else state.residual
        score = deviation = None
        if self.calibration is not None:
            score = self.calibration.score(state.residual, answer.points, answer.std)
            deviation = self.calibration.deviation(state.residual, answer.points, answer.std)
        return Estimate(answer.points, answer.std, square, answer.residual, evaluations, reset, lost, score, deviation)

    def _doubt(self, cold: _Answer) -> str | None:
        """Why a full solve's answer may be of no face, or None."""
        if cold.residual > self.settings.settled:
            return f"the solve does not settle, residual {cold.residual:.2f}"
        if self.calibration is not None:
            least = self.calibration.min_score if self.settings.min_score is None else self.settings.min_score
            if (score := self.calibration.score(cold.residual, cold.points, cold.std)) < least:
                return f"it does not look like a face, score {score:.2f}"
        return None


@dataclass(frozen=True)
class _Answer:
    points: NDArray[np.float32]
    std: NDArray[np.float32]
    z: Tensor
    residual: float
    evaluations: int
