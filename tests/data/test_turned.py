"""Turned photos: labels and pixels agree with the head in space, with each other, and with what annotators do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from ldeq.data import (
    IBUG68,
    WFLW98,
    DataError,
    FaceRecord,
    FaceSet,
    Layout,
    load_300w,
    open_faces,
    shared_indices,
    write_image,
    write_pts,
)
from ldeq.data.clips.deformation import Expression, FaceDeformation
from ldeq.data.clips.rendering import FaceRenderer
from ldeq.data.ibug300w import AXIS_300W
from ldeq.data.synthetic.geometry import Head, rotation_matrix
from ldeq.data.synthetic.parameters import DIFFICULTIES, FaceParameters, Pose
from ldeq.data.synthetic.sampling import sample_parameters
from ldeq.data.synthetic.scene import Scene
from ldeq.data.turned import TurnedFaces
from ldeq.data.turned.faces import SIZE, Variation
from ldeq.data.turned.fitting import FittedHead, fit_pose, yaw_of
from ldeq.data.turned.head import mean_head
from ldeq.data.turned.turning import TurnedFace

SIDE = 320
STILL = Variation(yaw=None, pitch=0.0, closure=0.0, wink=0.0, jaw=0.0, rounding=0.0, brows=0.0)


def drawn(seed: int, yaw: float = 0.0) -> FaceParameters:
    """A drawn person at rest, seen from a yaw and else straight from far away."""
    p = sample_parameters(np.random.default_rng(seed), DIFFICULTIES["easy"])
    calm = replace(p.expression, smile=0.0, open=0.0, skew=0.0, pucker=0.0, blink_left=0.0, blink_right=0.0)
    return replace(p, pose=Pose(yaw, 0.0, 0.0, 1e4, 0.5, (0.0, 0.0)), expression=calm)


def people(folder: Path, layout: Layout, count: int = 3) -> FaceSet:
    """Drawn people in files."""
    rows = list((shared_indices(layout, WFLW98) or ((), ()))[1])
    records = []
    for seed in range(count):
        head = Head(drawn(seed), SIDE)
        path = folder / f"{seed}.png"
        write_image(path, Scene(head, SIDE, np.random.default_rng(seed)).render())
        records.append(FaceRecord(path, head.points[rows]))
    return FaceSet("people", layout, records)


@pytest.fixture
def as_drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The head of the drawn faces, without what photos say about its depth."""
    monkeypatch.setattr("ldeq.data.turned.head._DEPTH", {})
    mean_head.cache_clear()
    yield
    mean_head.cache_clear()


def turned(points: np.ndarray, layout: Layout, yaw: float) -> TurnedFace:
    return TurnedFace(FittedHead(points, layout), rotation_matrix(Pose(yaw, 0, 0, 1, 1, (0, 0))), SIZE)


def aligned(points: np.ndarray) -> np.ndarray:
    """Without place and size."""
    centred = points - points.mean(0)
    return centred / np.sqrt((centred**2).sum(1).mean())


def test_every_landmark_of_300w_is_one_of_wflw() -> None:
    ours, theirs = shared_indices(IBUG68, WFLW98) or ((), ())
    assert ours == tuple(range(68)) and len(set(theirs)) == 68
    assert shared_indices(WFLW98, IBUG68) == (theirs, ours)
    # What is left and right in one is left and right in the other.
    assert [WFLW98.mirror[k] for k in theirs] == [theirs[k] for k in IBUG68.mirror]
    for opening in IBUG68.openings:
        for line in ("upper", "lower"):
            names = {theirs[k] for k in getattr(IBUG68.openings[opening], line)}
            assert names <= set(getattr(WFLW98.openings[opening], line))


@pytest.mark.parametrize("yaw", [-35.0, 0.0, 20.0, 50.0])
def test_the_yaw_of_a_drawn_head_is_found(yaw: float) -> None:
    found = [yaw_of(fit_pose(Head(drawn(seed, yaw), SIDE).points, WFLW98)[1]) for seed in range(8)]
    assert abs(float(np.median(found)) - yaw) < 5
    assert max(abs(v - yaw) for v in found) < 12


def test_a_head_that_is_not_turned_keeps_its_labels() -> None:
    points = Head(drawn(3), SIDE).points
    fitted = FittedHead(points, WFLW98)
    same = TurnedFace(fitted, fitted.rotation, SIZE)
    moved = np.linalg.norm(aligned(same.points) - aligned(points), axis=1)
    # Inner landmarks stay where they are; the contour goes to the outline of the fitted head.
    assert moved[33:].max() < 0.02 and moved[:33].max() < 0.08


@pytest.mark.parametrize("yaw", [-45.0, 25.0, 50.0])
@pytest.mark.parametrize("layout", [WFLW98, IBUG68], ids=lambda layout: layout.name)
@pytest.mark.usefixtures("as_drawn")
def test_labels_of_a_turned_face_are_those_of_the_same_person_seen_from_there(yaw: float, layout: Layout) -> None:
    rows = list((shared_indices(layout, WFLW98) or ((), ()))[1])
    errors, before = [], []
    for seed in range(6):
        front, side = (Head(drawn(seed, angle), SIDE).points[rows] for angle in (0.0, yaw))
        eyes = np.linalg.norm(front[layout.outer_eyes[0]] - front[layout.outer_eyes[1]]) / np.sqrt(
            ((front - front.mean(0)) ** 2).sum(1).mean()
        )
        wanted = aligned(side)
        errors.append(np.linalg.norm(aligned(turned(front, layout, yaw).points) - wanted, axis=1).mean() / eyes)
        before.append(np.linalg.norm(aligned(front) - wanted, axis=1).mean() / eyes)
    # The average head's depth is not this person's, so a few hundredths are left of what the turn moves.
    assert np.mean(errors) < 0.05 and np.mean(errors) < 0.5 * np.mean(before), (np.mean(errors), np.mean(before))


def test_pixels_go_where_labels_go(tmp_path: Path) -> None:
    faces = people(tmp_path, IBUG68, 1)
    photo, points = faces.read(0), faces.record(0).points
    photo[:] = 40
    # Of the side that a turn to the right shows: brow, eye, ridge and wing of the nose, corner of the mouth.
    marked = (19, 36, 28, 31, 48)
    for k in marked:
        cv2.circle(photo, tuple(int(v) for v in np.rint(points[k])), 5, (255, 255, 255), -1)
    face = turned(np.rint(points), IBUG68, 40.0)
    seen = face.draw(photo)[..., 0].astype(float)
    for k in marked:
        x, y = face.points[k]
        rows, columns = np.mgrid[:SIZE, :SIZE]
        weight = np.maximum(seen - 60, 0) * (np.hypot(columns - x, rows - y) < 12)
        assert weight.sum() > 0, k
        centre = np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()
        assert np.linalg.norm(centre - face.points[k]) < 2.5, (k, centre, face.points[k])


@pytest.mark.parametrize("yaw", [-80.0, 60.0, 90.0])
def test_of_a_profile_the_hidden_side_lies_at_the_outline(yaw: float) -> None:
    points = Head(drawn(1), SIDE).points[list((shared_indices(IBUG68, WFLW98) or ((), ()))[1])]
    face = turned(points, IBUG68, yaw)
    out = face.points[:, 0] * np.sign(yaw)
    far, near = (42, 36) if yaw > 0 else (36, 42)
    brow, eye = out[[IBUG68.mirror[k] for k in (17, 18, 19)] if yaw > 0 else [17, 18, 19]], out[far : far + 6]
    # The far eye is no farther in than the ridge of the nose beside it, and the near eye is.
    assert eye.min() > out[27] - 2 and out[near : near + 6].max() < out[27]
    assert brow.min() > out[27] - 4
    # From the mouth upwards the far half of the contour is the outline of the cheek or the lips, behind the tip of the nose.
    contour = out[11:17] if yaw > 0 else out[5::-1]
    assert contour.max() < out[30] and contour.min() > np.median(out) - 0.05 * SIZE


def test_what_is_about_the_head_stays_in_place(tmp_path: Path) -> None:
    faces = people(tmp_path, IBUG68, 1)
    photo = faces.read(0)
    face = turned(faces.record(0).points, IBUG68, 60.0)
    front, seen = face._front()
    behind = face._background()
    # No hole opens beside the head: where the mesh ends, the background goes on from the skin next to it.
    edge = cv2.dilate(seen.astype(np.uint8), np.ones((3, 3))).astype(bool) & ~seen
    inside = cv2.blur(np.where(seen[..., None], front, 0.0), (5, 5)) / np.maximum(
        cv2.blur(seen.astype(float), (5, 5))[..., None], 1e-6
    )
    rows = np.nonzero(edge)[0] < face.points[8, 1]
    assert np.median(np.linalg.norm(behind[edge] - inside[edge], axis=1)[rows]) < 0.1 * SIDE
    assert np.isfinite(behind).all() and face.draw(photo).shape == (SIZE, SIZE, 3)


@pytest.mark.parametrize("layout", [WFLW98, IBUG68], ids=lambda layout: layout.name)
def test_copies_differ_and_are_the_same_every_time(tmp_path: Path, layout: Layout) -> None:
    faces = people(tmp_path, layout)
    first, again, other = (TurnedFaces(faces, 2, seed) for seed in (0, 0, 1))
    assert len(first) == 6 and [first.source(i) for i in range(6)] == [0, 0, 1, 1, 2, 2]
    for i in (0, 3):
        np.testing.assert_array_equal(first.read(i), again.read(i))
        np.testing.assert_array_equal(first.record(i).points, again.record(i).points)
    assert first.variation(0) != first.variation(1) != other.variation(1)
    points = first.record(2).points
    assert points.dtype == np.float32 and points.shape == (layout.count, 2)
    middle = (points.min(0) + points.max(0)) / 2
    np.testing.assert_allclose(middle, (SIZE - 1) / 2, atol=1e-3)
    assert np.ptp(points, axis=0).max() == pytest.approx(SIZE / 2, abs=1e-3)


def openings(faces: TurnedFaces, variation: Variation, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    monkeypatch.setattr(TurnedFaces, "variation", lambda self, index: variation)
    copy = TurnedFaces(faces.faces, 1, faces.seed)
    points = copy.record(0).points
    assert copy.read(0).std() > 10
    return {name: float(opening.width(points)) for name, opening in copy.layout.openings.items()}


@pytest.mark.parametrize("yaw", [None, 40.0])
def test_eyes_close_and_mouths_open_at_any_yaw(tmp_path: Path, yaw: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    faces = TurnedFaces(people(tmp_path, IBUG68, 1), 1)
    rest, shut, wink, wide = (
        openings(faces, replace(STILL, yaw=yaw, **change), monkeypatch)
        for change in ({}, {"closure": 1.0}, {"closure": 1.0, "wink": 1.0}, {"jaw": 1.0})
    )
    for eye in ("left_eye", "right_eye"):
        assert shut[eye] < 0.2 * rest[eye]
    # Of a wink to the right, the right eye stays open.
    assert wink["left_eye"] < 0.2 * rest["left_eye"] and wink["right_eye"] == pytest.approx(rest["right_eye"], rel=0.1)
    assert wide["mouth"] > rest["mouth"] + 15


def test_of_a_wink_the_picture_shows_what_the_labels_say(tmp_path: Path) -> None:
    faces = people(tmp_path, IBUG68, 1)
    photo, points = faces.read(0), faces.record(0).points.astype(np.float64)
    face = FaceDeformation(points, IBUG68)
    renderer = FaceRenderer(photo, face, photo.shape[:2])
    still, wink, other = (renderer.draw(np.eye(2, 3), Expression(closure=1.0, wink=w)).astype(int) for w in (0.0, 1.0, -1.0))
    rest = renderer.draw(np.eye(2, 3), Expression()).astype(int)
    for side, closed, opened in (("left_eye", wink, other), ("right_eye", other, wink)):
        x, y = np.rint(points[list(IBUG68.parts[side].indices)].mean(0)).astype(int)
        region = slice(y - 8, y + 8), slice(x - 12, x + 12)
        np.testing.assert_array_equal(opened[region], rest[region])
        np.testing.assert_array_equal(closed[region], still[region])
        assert np.abs(closed[region] - rest[region]).mean() > 5


def test_turned_heads_are_never_turned_back_to_show_what_the_photo_hides(tmp_path: Path) -> None:
    head = Head(drawn(0, 30.0), SIDE)
    path = tmp_path / "side.png"
    write_image(path, Scene(head, SIDE, np.random.default_rng(0)).render())
    faces = TurnedFaces(FaceSet("side", WFLW98, [FaceRecord(path, head.points)]), 40)
    yaws = [v.yaw for v in map(faces.variation, range(40)) if v.yaw is not None]
    assert len(yaws) > 20 and min(yaws) > 20 and max(yaws) > 60


def test_the_specification_names_turned_copies(tmp_path: Path) -> None:
    folder = tmp_path / "helen" / "trainset"
    folder.mkdir(parents=True)
    faces = people(tmp_path, IBUG68)
    for i in range(3):
        write_image(folder / f"{i}.png", faces.read(i))
        write_pts(faces.record(i), folder / f"{i}.pts")
    found = open_faces(f"300w:{tmp_path}#helen-train,turned=4,seed=2")
    assert isinstance(found, TurnedFaces) and len(found) == 12 and found.seed == 2
    assert found.layout == IBUG68 and found.axis == AXIS_300W
    for options, said in (("turned=0", "1 to 1000"), ("turned=many", "whole number"), ("seed=1", "turned copies")):
        with pytest.raises(DataError, match=said):
            open_faces(f"300w:{tmp_path}#helen-train,{options}")
    with pytest.raises(DataError, match="unknown option 'turned'"):
        open_faces("synthetic:5#turned=2")


def test_labels_that_no_head_has_are_left_out_and_a_set_of_them_is_refused(tmp_path: Path) -> None:
    faces = people(tmp_path, IBUG68, 2)
    wild = np.random.default_rng(0).uniform(50, 250, (68, 2)).astype(np.float32)
    mixed = replace(faces, records=[replace(faces.records[0], points=wild), faces.records[1]])
    assert TurnedFaces(mixed, 1).usable == [1]
    with pytest.raises(DataError, match="none of the faces of people can be turned"):
        TurnedFaces(replace(faces, records=[mixed.records[0]]), 1)


def depth_of_labels(faces: FaceSet) -> np.ndarray:
    """How much nearer than the head's each landmark is, `(K,)` in face units, from where turns of the head take the labels."""
    errors, cameras = [], []
    for record in faces.records:
        points = record.points.astype(float)
        for labels in (points, faces.layout.mirror_points(points, 0.0)):
            try:
                space, rotation, scale, origin = fit_pose(labels, faces.layout)
            except ValueError:
                continue
            errors.append((labels - (scale * space @ rotation.T)[:, :2] - origin) / scale)
            cameras.append(rotation[:2])
    normal = np.einsum("nij,nik->jk", cameras, cameras)
    return np.asarray(np.linalg.solve(normal, np.einsum("nij,nki->jk", cameras, errors))[2])


def test_the_head_is_as_deep_as_those_of_photos(real_300w: Path, request: pytest.FixtureRequest) -> None:
    faces = load_300w(real_300w, "helen-test")  # the depths are from the training photos
    found = np.abs(depth_of_labels(faces))
    request.getfixturevalue("as_drawn")
    drawn = np.abs(depth_of_labels(faces))
    assert found.mean() < 0.6 * drawn.mean(), (found.mean(), drawn.mean())
    # The corners of the mouth, the ridge of the nose and the chin, which make a profile.
    parts = [48, 54, 27, 28, 29, 8]
    assert found[parts].max() < 0.06 < drawn[parts].max()
