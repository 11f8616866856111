"""The parts of a made clip, number by number: motion, deformation, mouth, occluders, blur. A seed gives the same clip for ever.

Whole frames are compared in test_clips_stay_the_same.py; here are the numbers that a picture shows only roughly. They are in
golden/clip_parts.json; ``LDEQ_RECORD=1`` writes it anew.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ldeq.data import IBUG68, WFLW98, Layout
from ldeq.data.clips.deformation import Expression, FaceDeformation
from ldeq.data.clips.motion import DIFFICULTIES, draw_motion
from ldeq.data.clips.rendering import FaceRenderer, draw_occluder, extend, motion_blur

GOLDEN = Path(__file__).parent / "golden"
# The landmarks of WFLW that lie where those of 300-W do.
AS_68 = (
    *range(0, 33, 2), *range(33, 38), *range(42, 47), *range(51, 60), 60, 61, 63, 64, 65, 67, 68, 69, 71, 72, 73, 75,
    *range(76, 96),
)  # fmt: skip
LAYOUTS = [WFLW98, IBUG68]
EXPRESSIONS = {
    "still": Expression(),
    "turned": Expression(yaw=0.25, pitch=-0.15),
    "speaking": Expression(jaw=14.0, rounding=0.7),
    "closing": Expression(jaw=-2.0, rounding=-0.5),
    "blinking": Expression(closure=0.6, brows=0.8),
    "all": Expression(-0.2, 0.1, 9.0, -0.8, 1.0, -0.6),
}


def face(layout: Layout) -> np.ndarray:
    points = np.array(json.loads((GOLDEN / "points.json").read_text()))
    return points if layout is WFLW98 else points[list(AS_68)]


def photo(size: int = 256) -> np.ndarray:
    y, x = np.mgrid[:size, :size] / size
    return np.dstack([150 + 40 * np.sin(9 * x + 4 * y), 110 + 30 * np.sin(14 * y - 5 * x), 90 + 25 * np.cos(23 * x)]).astype(
        np.float32
    )


def held(name: str, found: Any, atol: float) -> None:
    """Compares numbers with those that are recorded under a name."""
    path = GOLDEN / "clip_parts.json"
    found = np.asarray(found, np.float64)
    if os.environ.get("LDEQ_RECORD"):
        record = json.loads(path.read_text()) if path.exists() else {}
        record[name] = np.round(found, 4).tolist()
        path.write_text("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(record[k])}" for k in sorted(record)) + "\n}\n")
    np.testing.assert_allclose(found, json.loads(path.read_text())[name], atol=atol, rtol=1e-5)


@pytest.mark.parametrize("difficulty", list(DIFFICULTIES))
@pytest.mark.parametrize("seed", [0, 1])
def test_a_motion_is_what_it_was(difficulty: str, seed: int) -> None:
    motion = draw_motion(np.random.default_rng(seed), 120, 25.0, DIFFICULTIES[difficulty])
    table = np.column_stack([np.reshape(value, (120, -1)) for value in vars(motion).values()])
    held(f"motion {difficulty} {seed}", table[::7], 2e-4)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
@pytest.mark.parametrize("name", list(EXPRESSIONS))
def test_landmarks_and_skin_move_as_they_did(layout: Layout, name: str) -> None:
    e = EXPRESSIONS[name]
    deformation = FaceDeformation(face(layout), layout)
    held(f"landmarks {layout.name} {name}", deformation.landmarks(e)[::3], 2e-4)
    # Places all over the photo, and a dense patch about the mouth and an eye.
    low, high = deformation.points.min(0) - 20, deformation.points.max(0) + 20
    grid = np.stack(np.meshgrid(np.linspace(low[0], high[0], 9), np.linspace(low[1], high[1], 9)), -1).reshape(-1, 2)
    eye = deformation.eyes[0]
    near = np.stack(np.meshgrid(np.linspace(-1.3, 1.3, 7), np.linspace(-1.2, 1.2, 7)), -1).reshape(-1, 2)
    held(f"soft {layout.name} {name}", deformation.soft(grid, e) - grid, 2e-4)
    lips = deformation.lips
    about = lips.origin + lips.half * near
    held(f"lips {layout.name} {name}", np.stack([lips.above(about, e.jaw), lips.below(about, e.jaw)]) - about, 2e-4)
    about = eye.origin + 1.5 * eye.half * near
    held(f"lid {layout.name} {name}", eye.lid(about, e.closure) - about, 2e-4)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_what_is_measured_of_a_face_is_what_it_was(layout: Layout) -> None:
    d = FaceDeformation(face(layout), layout)
    held(
        f"measures {layout.name}",
        [d.width, d.height, d.side, *d.centre, *d.across, d.lips.chin, d.lips.nose, d.lips.half, d.lips.widest,
         d.lips.narrowest, *(v for eye in d.eyes for v in (eye.height, eye.half, *eye.origin)), *d.lips.upper[::32],
         *d.lips.lower[::32]],
        2e-4,
    )  # fmt: skip
    lines = [d.lips.lines(np.linspace(-1.2, 1.2, 9), jaw) for jaw in (-3.0, 0.0, 5.0, 40.0)]
    held(f"lines {layout.name}", lines, 2e-4)
    assert [int(v.sum()) for v in (*d.on_lid, d.under_lips)] == {98: [30, 29, 22], 68: [18, 18, 15]}.get(layout.count)


def test_a_face_from_the_side_or_folded_is_refused_at_the_stated_bounds() -> None:
    points = face(WFLW98)
    d = FaceDeformation(points, WFLW98)

    def squeezed(share: float) -> np.ndarray:
        """The face with a width of that share of its height."""
        along = points @ d.across
        return points + np.outer((along - along.mean()) * (share * d.height / d.width - 1), d.across)

    FaceDeformation(squeezed(0.47), WFLW98)
    with pytest.raises(ValueError, match="seen from the side"):
        FaceDeformation(squeezed(0.43), WFLW98)

    def nose(share: float) -> np.ndarray:
        moved = points.copy()
        tip = WFLW98.parts["nose_ridge"].indices[-1]
        moved[tip] += ((share * d.width) - (d.nose - d.centre) @ d.across) * d.across
        return moved

    for sign in (-1, 1):
        FaceDeformation(nose(sign * 0.215), WFLW98)
        with pytest.raises(ValueError, match="seen from the side"):
            FaceDeformation(nose(sign * 0.225), WFLW98)
    closed = points.copy()
    closed[60:68] = closed[60:68].mean(0)
    with pytest.raises(ValueError, match="corners of an eye or of the mouth coincide"):
        FaceDeformation(closed, WFLW98)
    folded = points.copy()
    folded[89, 0], folded[91, 0] = points[91, 0], points[89, 0]
    with pytest.raises(ValueError, match="folds back"):
        FaceDeformation(folded, WFLW98)


def test_a_mouth_is_as_dark_and_as_warm_as_it_was() -> None:
    for kind, grey in (("colour", False), ("grey", True)):
        picture = photo()
        if grey:
            picture = np.repeat(picture.mean(-1, keepdims=True), 3, -1)
        renderer = FaceRenderer(picture, FaceDeformation(face(WFLW98), WFLW98), (200, 220))
        held(f"mouth {kind}", renderer.mouth_colour, 1e-3)
        # Warmer where the skin is coloured by more than eight levels, and as grey as the photo else.
        assert (np.ptp(renderer.mouth_colour) > 3) != grey


@pytest.mark.parametrize("name", list(EXPRESSIONS))
def test_a_frame_is_what_it_was_to_a_fraction_of_a_level(name: str) -> None:
    """Float photos are followed exactly: what eight bits round away is seen here."""
    d = FaceDeformation(face(WFLW98), WFLW98)
    renderer = FaceRenderer(photo(), d, (180, 200))
    camera = np.array([[0.9, -0.12, 10.0], [0.12, 0.9, -40.0]])
    frame = renderer.draw(camera, EXPRESSIONS[name])
    held(f"frame {name}", frame[4::16, 4::16], 0.05)
    for part, slit in (("mouth", d.lips), ("eye", d.eyes[1])):
        x, y = np.rint(camera[:, :2] @ slit.origin + camera[:, 2]).astype(int)
        held(f"frame {name} {part}", frame[max(y - 14, 0) : y + 22 : 4, max(x - 24, 0) : x + 25 : 6], 0.15)


def test_a_photo_goes_on_beyond_its_edge_ever_softer() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    wide = extend(noise, 40)
    assert wide.shape == (140, 160, 3)
    np.testing.assert_array_equal(wide[40:100, 40:120], noise)
    np.testing.assert_array_equal(wide[38:40, 50:60], noise[1:3][::-1, 10:20])  # two pixels are mirrored sharply
    held("extended", wide[::9, ::9], 1.01)
    exact = extend(noise.astype(np.float32), 40)
    assert exact.dtype == np.float32
    np.testing.assert_array_equal(exact[0, 40:50], noise[40, :10].astype(np.float32))


def test_a_moving_camera_smears_along_its_way() -> None:
    dot = np.zeros((31, 31, 3), np.uint8)
    dot[15, 15] = 240
    for way in ((0.5, 0.4), (0.69, 0.0)):
        np.testing.assert_array_equal(motion_blur(dot, np.array(way)), dot)
    for number, way in enumerate(((0.7, 0.0), (6.0, 0.0), (0.0, -5.0), (4.0, 3.0))):
        smear = motion_blur(dot, np.array(way)).astype(float)
        held(f"smear {number}", smear[7:24, 7:24, 0], 1.01)
        y, x = np.indices(smear.shape[:2])
        mass = smear[..., 0]
        assert (mass * x).sum() / mass.sum() == pytest.approx(15, abs=0.2)
        assert (mass * y).sum() / mass.sum() == pytest.approx(15, abs=0.2)


@pytest.mark.parametrize("seed", range(4))
def test_a_thing_before_the_face_is_what_it_was(seed: int) -> None:
    texture = np.clip(photo(90), 0, 255).astype(np.uint8)
    boxes = np.array([[60.0 + t, 50.0, 140.0 + t, 150.0 - t] for t in range(12)])
    thing = draw_occluder(np.random.default_rng(seed), texture, boxes, (200, 220), 40, 14)
    size = thing.picture.shape[0]
    held(f"thing {seed}", thing.picture[size // 8 :: size // 5, size // 8 :: size // 5], 0.6)
    held(f"places {seed}", thing.places, 2e-4)
    held(f"shown {seed}", thing.shown, 0)
    frame = np.full((200, 220, 3), 90, np.uint8)
    for t in range(12):
        thing.draw(frame, t)
    held(f"drawn {seed}", frame[5::20, 5::20], 1.01)


def test_a_thing_partly_outside_of_the_frame_is_cut_at_its_edge() -> None:
    texture = np.clip(photo(90), 0, 255).astype(np.uint8)
    boxes = np.tile([60.0, 50.0, 140.0, 150.0], (12, 1))
    thing = draw_occluder(np.random.default_rng(0), texture, boxes, (200, 220), 12)
    whole = np.zeros((600, 600, 3), np.uint8)
    t = int(np.flatnonzero(thing.shown)[len(np.flatnonzero(thing.shown)) // 2])
    for x, y in ((0.0, 100.0), (219.0, 100.0), (110.0, 0.0), (110.0, 199.0)):
        thing.places[t, :2] = x, y
        frame = np.zeros((200, 220, 3), np.uint8)
        thing.draw(frame, t)
        assert frame.any()
        thing.places[t, :2] = x + 200, y + 200
        whole[:] = 0
        thing.draw(whole, t)
        # Places within a pixel are counted in parts of 32.
        np.testing.assert_allclose(frame.astype(int), whole[200:400, 200:420].astype(int), atol=4)
    for x, y in ((-400.0, 100.0), (110.0, -400.0), (900.0, 100.0)):
        thing.places[t, :2] = x, y
        frame = np.zeros((200, 220, 3), np.uint8)
        thing.draw(frame, t)
        assert not frame.any()
