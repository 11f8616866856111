"""The scripts of the page compute what ldeq computes in Python."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from clips import drawn
from numpy.typing import NDArray

from ldeq.data import Layout, SquareBox, crop_box, get_layout, warp
from ldeq.data.crop import crop_matrix
from ldeq.face import Face
from ldeq.video.crops import follow_crop
from ldeq.video.drawing import FlickerMeter
from ldeq.video.filters import make_filter
from ldeq.video.filters.face_frame import FaceFrameSettings
from ldeq.video.filters.face_modes import face_modes
from ldeq.web.model import layout_of

Scripts = Callable[..., str]

PICTURE = """
import { cropPixels } from "./crop.js";
const rgb = Buffer.from(given.rgb, "base64");
const data = new Uint8ClampedArray(4 * given.width * given.height);
for (let i = 0; i < rgb.length; i++) data[4 * Math.floor(i / 3) + (i % 3)] = rgb[i];
const picture = { width: given.width, height: given.height, data };
const crops = given.squares.map((square) => Buffer.from(cropPixels(picture, square, given.size)).toString("base64"));
console.log(JSON.stringify(crops));
"""


def crops_of(scripts: Scripts, image: NDArray[np.uint8], squares: list[SquareBox], size: int) -> list[NDArray[np.uint8]]:
    given = {
        "rgb": base64.b64encode(image.tobytes()).decode(),
        "width": image.shape[1],
        "height": image.shape[0],
        "size": size,
        "squares": [dataclasses.asdict(square) for square in squares],
    }
    found = json.loads(scripts(PICTURE, json.dumps(given)))
    return [np.frombuffer(base64.b64decode(crop), np.uint8).reshape(size, size, 3) for crop in found]


@pytest.mark.parametrize("size", [64, 128])
def test_a_crop_is_the_one_that_python_makes(scripts: Scripts, size: int) -> None:
    """Inside the picture and beyond its edges, enlarged, shrunk and shrunk so far that blocks are averaged first."""
    rng = np.random.default_rng(0)
    image = np.ascontiguousarray(drawn(3)[0][:, :220])
    image = np.clip(image + rng.normal(0, 20, image.shape), 0, 255).astype(np.uint8)
    places = [(110.3, 120.9, s) for s in (40.0, 63.7, 100.25, 131.0, 200.0, 260.5, 400.0)]
    places += [(2.2, 3.3, 90.0), (215.0, 250.0, 150.4), (-400.0, 50.0, 60.0), (120.0, 120.0, 900.0)]
    squares = [SquareBox.about(*place) for place in places]
    for square, found in zip(squares, crops_of(scripts, image, squares, size), strict=True):
        wanted = warp(image, crop_matrix(square, size), size).astype(int)
        difference = np.abs(found.astype(int) - wanted)
        # Means of 16 pixels and more that end in a half: OpenCV rounds them to even numbers.
        assert difference.max() <= 1, square
        assert difference.mean() < (0.03 if square.side > 3 * size else 1e-4), square


def test_a_crop_follows_as_in_python(scripts: Scripts) -> None:
    rng = np.random.default_rng(1)
    low, high = (50, 50, 80), (60, 60, 100)
    current, target = ([SquareBox.about(*map(float, rng.uniform(low, high))) for _ in range(20)] for _ in range(2))
    target += [current[0]]
    current += [current[0]]
    given = [[dataclasses.asdict(a), dataclasses.asdict(b)] for a, b in zip(current, target, strict=True)]
    program = """
import { followCrop } from "./crop.js";
console.log(JSON.stringify(given.map(([a, b]) => followCrop(a, b, 0.02, 0.04))));
"""
    for found, a, b in zip(json.loads(scripts(program, json.dumps(given))), current, target, strict=True):
        wanted = follow_crop(a, b, 0.02, 0.04)
        assert [found["x0"], found["y0"], found["side"]] == pytest.approx([wanted.x0, wanted.y0, wanted.side], abs=1e-9)


def test_boxes_give_the_squares_of_python(scripts: Scripts) -> None:
    points = drawn(3)[1].astype(np.float64)
    program = """
import { boxOf, squareOfBox } from "./crop.js";
console.log(JSON.stringify(squareOfBox(boxOf(given), 1.2)));
"""
    found = json.loads(scripts(program, json.dumps(points.ravel().tolist())))
    wanted = crop_box("landmarks", points=points, scale=1.2)
    assert [found["x0"], found["y0"], found["side"]] == pytest.approx([wanted.x0, wanted.y0, wanted.side], abs=1e-9)


def track(layout: Layout, frames: int = 60) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A face that turns, shifts, grows and opens its mouth, with noise, and a hand before it for a while."""
    rng = np.random.default_rng(2)
    shape = drawn(3)[1].astype(np.float64)[: layout.count]
    shape -= shape.mean(0)
    points = np.empty((frames, layout.count, 2))
    std = np.full((frames, layout.count), 2.0) * rng.uniform(0.8, 1.2, (frames, layout.count))
    moving_part = list(layout.parts["outer_lip"].indices)
    for t in range(frames):
        angle, scale = 0.3 * np.sin(t / 9), 1 + 0.1 * np.sin(t / 13)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        now = shape.copy()
        now[moving_part, 1] += 6 * np.sin(t / 3) * (np.arange(len(moving_part)) % 2)
        points[t] = now @ turn.T + (150 + 20 * np.sin(t / 7), 140 + t / 5)
    points += rng.normal(0, 0.7, points.shape)
    points[30:40, :20] += rng.normal(0, 9, points[30:40, :20].shape)
    std[30:40, :20] *= 2.5
    return points, std


FILTER = """
import { FaceFrame } from "./filter.js";
const filter = new FaceFrame(given.settings, given.layout);
const out = given.points.map((points, t) => Array.from(filter.step(points, given.std[t], given.dt[t])));
console.log(JSON.stringify(out));
"""


@pytest.mark.parametrize("count", [68, 98])
@pytest.mark.parametrize("noise", [0.0, 0.036, 0.1])
def test_the_filter_is_the_one_of_python(scripts: Scripts, count: int, noise: float) -> None:
    layout = get_layout(count)
    settings = FaceFrameSettings(noise=noise)
    points, std = track(layout)
    dt = np.random.default_rng(3).uniform(0.02, 0.06, len(points))
    given: dict[str, Any] = {"settings": dataclasses.asdict(settings), "layout": layout_of(layout), "dt": dt.tolist()}
    given |= {"points": points.reshape(len(points), -1).tolist(), "std": std.tolist()}
    found = np.array(json.loads(scripts(FILTER, json.dumps(given)))).reshape(points.shape)
    reference = make_filter("face-frame", layout, noise=noise)
    wanted = np.stack([reference.step(p, s, d) for p, s, d in zip(points, std, dt, strict=True)])
    assert np.abs(found - wanted).max() < 1e-6
    if noise:
        assert np.abs(wanted - points).max() > 1  # the filter does something


@pytest.mark.parametrize("count", [68, 98])
def test_the_fields_of_a_face_are_those_of_python(scripts: Scripts, count: int) -> None:
    layout = get_layout(count)
    shape = track(layout, 1)[0][0] / 50 - (3, 2.8)
    program = """
import { faceModes } from "./modes.js";
const { fields, bends } = faceModes(given.layout, given.shape);
console.log(JSON.stringify({ fields: fields.map((field) => Array.from(field)), bends }));
"""
    found = json.loads(scripts(program, json.dumps({"layout": layout_of(layout), "shape": shape.ravel().tolist()})))
    wanted = face_modes(layout, shape)
    fields = np.array(found["fields"]).T.reshape(count, 2, -1)
    assert fields.shape == wanted.fields.shape and found["bends"] == len(wanted.bend)
    np.testing.assert_allclose(fields, wanted.fields, atol=1e-12)


def test_flicker_is_measured_as_in_python(scripts: Scripts) -> None:
    layout = get_layout(68)
    points = track(layout, 12)[0]
    program = """
import { FlickerMeter } from "./trace.js";
const meter = new FlickerMeter();
console.log(JSON.stringify(given.map((points) => meter.step(points))));
"""
    found = json.loads(scripts(program, json.dumps(points.reshape(12, -1).tolist())))
    meter = FlickerMeter()
    std = np.ones(68, np.float32)
    wanted = [
        meter.step([Face.of(p.astype(np.float32), std, layout, 0, "start" if t == 0 else None)]) for t, p in enumerate(points)
    ]
    assert found[:2] == [None, None] and np.isnan(wanted[:2]).all()
    np.testing.assert_allclose(found[2:], wanted[2:], rtol=1e-4)


def test_the_score_of_a_face_is_that_of_python(scripts: Scripts) -> None:
    from ldeq.confidence import Calibration
    from ldeq.web.model import score_of

    calibration = Calibration(-22.8, -4.12, -5.62, 0.3, (0.0,) * 68, 1.0, 0.0, 0.0)
    points, std = track(get_layout(68), 1)
    program = """
import { faceScore } from "./search.js";
console.log(JSON.stringify([...given.residuals.map((residual) => faceScore({ ...given, residual }, given.numbers)),
  faceScore({ ...given, residual: 0.3 }, null)]));
"""
    residuals = [0.01, 0.05, 0.1, 0.3]
    answer = {"points": points[0].ravel().tolist(), "std": std[0].tolist()}
    given = {**answer, "numbers": score_of(calibration), "residuals": residuals}
    found = json.loads(scripts(program, json.dumps(given)))
    wanted = [calibration.score(r, points[0].astype(np.float32), std[0].astype(np.float32)) for r in residuals]
    assert found == pytest.approx([*wanted, 1.0], rel=1e-5)
    assert score_of(None) is None
    assert max(wanted) > min(wanted)


def test_guesses_lie_within_the_picture_and_begin_with_the_guide(scripts: Scripts) -> None:
    program = """
import { guesses, guideBox } from "./search.js";
const size = { width: 640, height: 480 };
console.log(JSON.stringify({ all: guesses(size, null), guide: guideBox(size), after: guesses(size, [1, 2, 30, 40]) }));
"""
    found = json.loads(scripts(program))
    assert found["all"][0] == found["guide"] == [200, 120, 440, 360]
    assert all(0 <= x1 < x2 <= 640 and 0 <= y1 < y2 <= 480 for x1, y1, x2, y2 in found["all"])
    assert found["after"][0] == [1, 2, 30, 40] and len(found["after"]) > len(found["all"])
