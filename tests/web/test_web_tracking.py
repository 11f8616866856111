"""The page follows, checks, resets and loses a face in the same frames as Python, whatever the model answers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from clips import drawn
from numpy.typing import NDArray

from ldeq.data import SquareBox
from ldeq.engine import Pretrained
from ldeq.video import tracking
from ldeq.video.tracking import FaceState, Tracker, TrackingSettings
from ldeq.web.model import description

Answer = tuple[NDArray[np.float32], NDArray[np.float32], float]

SIZE, WIDTH, HEIGHT = 128, 320, 240
BOX = [100.0, 60.0, 200.0, 160.0]

PROGRAM = """
import { Tracker } from "./solve.js";
const results = [];
for (const { rwr, refine, answers } of given.runs) {
  const left = [...answers];
  const model = {
    about: given.about,
    injection: async () => null,
    solve: async () => ({ ...restored(left.shift()), z: {} }),
  };
  const tracker = new Tracker(model, { rwr });
  tracker.start(given.box, refine);
  const picture = { width: given.width, height: given.height, data: new Uint8ClampedArray(4 * given.width * given.height) };
  const frames = [];
  while (tracker.active && left.length > 8) {
    const { points, square, evaluations, reset, lost } = await tracker.step(picture, 2);
    frames.push({ points: Array.from(points), square, evaluations, reset, lost, spent: answers.length - left.length });
  }
  results.push(frames);
}
console.log(JSON.stringify(results));

// JSON has no NaN.
function restored(answer) {
  return { ...answer, landmarks: answer.landmarks.map((value) => value ?? NaN) };
}
"""


def answers(seed: int, trouble: float, count: int = 160) -> list[Answer]:
    """What a model might say in turn: a face in the crop that trembles, and with some probability something worse."""
    rng = np.random.default_rng(seed)
    shape = drawn(3)[1][:68].astype(np.float64)
    shape = (shape - shape.mean(0)) / np.ptp(shape, axis=0).max() * SIZE / 1.2 + SIZE / 2
    said = []
    for _ in range(count):
        points, std, residual = shape + rng.normal(0, 0.5, shape.shape), rng.uniform(2, 3, len(shape)), 0.05
        if rng.random() < trouble:
            kind = rng.integers(6)
            if kind == 0:
                points = points + rng.uniform(-25, 25, 2)  # a leap, or a drift
            elif kind == 1:
                points = SIZE / 2 + (points - SIZE / 2) * rng.uniform(0.3, 1.5)
            elif kind in (2, 3):
                residual = 0.4
            elif kind == 4:
                std = std * 2
            else:
                points = points * (np.nan if rng.random() < 0.1 else 1)
        said.append((points.astype(np.float32), std.astype(np.float32), residual))
    return said


def in_python(
    pretrained: Pretrained,
    said: Sequence[Answer],
    rwr: bool,
    refine: int,
    monkeypatch: pytest.MonkeyPatch,
) -> list[dict[str, Any]]:
    left = list(said)
    tracker = Tracker(pretrained.model, pretrained.crop_scale, TrackingSettings(rwr=rwr, iters=2), pretrained.layout)

    def solve(
        chosen: Sequence[int], frames: Any, squares: Sequence[SquareBox], states: Sequence[FaceState] | None
    ) -> list[tracking._Answer]:
        found = []
        for i in chosen:
            points, std, residual = left.pop(0)
            ratio = squares[i].side / SIZE
            placed = (points.astype(np.float64) + 0.5) * ratio - 0.5 + (squares[i].x0, squares[i].y0)
            count = 4 if states is None else 2
            found.append(
                tracking._Answer(placed.astype(np.float32), std * np.float32(ratio), torch.zeros(1, 1, 1, 1), residual, count)
            )
        return found

    monkeypatch.setattr(tracker, "_solve", solve)
    state = tracker.start(BOX, refine)
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    frames = []
    while len(left) > 8:
        (estimate,) = tracker.step([frame], [state])
        frames.append(
            {
                "points": estimate.points.ravel(),
                "square": dataclasses.asdict(estimate.square),
                "evaluations": estimate.evaluations,
                "reset": estimate.reset,
                "lost": estimate.lost,
                "spent": len(said) - len(left),
            }
        )
        if estimate.lost:
            break
    return frames


def test_the_page_follows_as_python_does(
    scripts: Callable[..., str], pretrained: Pretrained, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Python refines every frame that it solves alone; the page only the first one.
    ways = [(True, 0), (True, 2), (False, 0)]
    cases = [(seed, trouble, *way) for seed in range(10) for trouble in (0.0, 0.06, 0.3) for way in ways]
    scripted = [answers(seed, trouble) for seed, trouble, _, _ in cases]
    runs = [
        {
            "rwr": rwr,
            "refine": refine,
            "answers": [
                {"landmarks": [None if np.isnan(v) else float(v) for v in p.ravel()], "std": s.tolist(), "residual": r}
                for p, s, r in said
            ],
        }
        for (_, _, rwr, refine), said in zip(cases, scripted, strict=True)
    ]
    given = {"about": description(pretrained), "runs": runs, "box": BOX, "width": WIDTH, "height": HEIGHT}
    by_page = json.loads(scripts(PROGRAM, json.dumps(given)))
    seen: set[str] = set()
    for case, said, (_, _, rwr, refine), found in zip(cases, scripted, cases, by_page, strict=True):
        wanted = in_python(pretrained, said, rwr, refine, monkeypatch)
        assert len(found) == len(wanted), case
        for t, (a, b) in enumerate(zip(found, wanted, strict=True)):
            assert (a["evaluations"], a["spent"]) == (b["evaluations"], b["spent"]), (case, t)
            assert (a["reset"] is None, a["lost"] is None) == (b["reset"] is None, b["lost"] is None), (case, t)
            assert list(a["square"].values()) == pytest.approx(list(b["square"].values()), abs=1e-3), (case, t)
            if not np.isnan(b["points"]).any():
                np.testing.assert_allclose(np.array(a["points"], float), b["points"], atol=1e-3)
        seen |= {"reset" for a in found[1:] if a["reset"]} | {a["lost"] for a in found if a["lost"]}
        seen |= {"checked"} if any(a["evaluations"] == 6 for a in found) else set()
    # The cases reach what they are for.
    assert {"reset", "checked", "the solve does not settle", "its size changed at once"} <= seen, seen


RESTARTED = """
import { Tracker } from "./solve.js";
const model = {
  about: given.about,
  injection: async () => null,
  solve: async () => {
    act?.();
    return { ...given.answer, z: {} };
  },
};
let act = null;
const picture = { width: given.width, height: given.height, data: new Uint8ClampedArray(4 * given.width * given.height) };
const tracker = new Tracker(model, { rwr: true });
tracker.start(given.box);
const told = [(await tracker.step(picture, 1)).reset];
act = () => tracker.start(given.other);
told.push(await tracker.step(picture, 1), tracker.square, tracker.z, tracker.frames);
act = () => tracker.stop();
told.push(await tracker.step(picture, 1), tracker.active);
console.log(JSON.stringify(told));
"""


def test_a_face_that_is_chosen_while_the_model_computes_is_not_forgotten(
    pretrained: Pretrained, scripts: Callable[..., str]
) -> None:
    """The answer for the old face came later than the choice, and took its place."""
    points, std, residual = answers(0, 0.0, 1)[0]
    answer = {"landmarks": points.ravel().tolist(), "std": std.tolist(), "residual": residual}
    other = [20.0, 30.0, 90.0, 100.0]
    given = {"about": description(pretrained), "answer": answer, "box": BOX, "other": other, "width": WIDTH, "height": HEIGHT}
    first, second, square, z, frames, third, active = json.loads(scripts(RESTARTED, json.dumps(given)))
    assert first == "start" and second is None and third is None
    assert square["side"] == pytest.approx(1.2 * 70) and z is None and frames == 0
    assert active is False
