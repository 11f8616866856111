"""Head pose and openings of a face against drawn heads, whose angles and expressions are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ldeq.data import IBUG68, WFLW98, Layout
from ldeq.data.layouts import UnknownPartError
from ldeq.data.synthetic import SyntheticFaces
from ldeq.data.synthetic.geometry import Head
from ldeq.data.synthetic.parameters import Expression, FaceParameters
from ldeq.face import Face
from ldeq.pose import HEAD, RIGID, head_pose

FACES = SyntheticFaces(300, seed=5)
REST = Expression(0, 0, 0, 0, 0, 0, 0, 0, 0, (0, 0))


def posed(yaw: float, pitch: float, roll: float) -> Head:
    p = FACES.parameters(0)
    return Head(replace(p, expression=REST, pose=replace(p.pose, yaw=yaw, pitch=pitch, roll=roll)), 256)


def face_of(p: FaceParameters) -> Face:
    points = Head(p, 256).points
    return Face.of(points, np.ones(98, np.float32), WFLW98)


def test_the_model_of_the_head_is_the_mean_of_drawn_heads() -> None:
    heads = [Head(replace(FACES.parameters(i), expression=REST), 128).space[list(RIGID["wflw-98"])] for i in range(300)]
    mean = np.mean(heads, 0)
    gap = HEAD - mean
    assert np.abs(gap - gap.mean(0)).max() < 0.012  # another seed than that of the constants; a shift does not matter
    assert np.linalg.norm(HEAD[0] - HEAD[3]) == pytest.approx(1.0, abs=0.01)


def test_angles_are_those_of_the_head() -> None:
    """Signs and order: each angle on its own, and all of them together."""
    at_rest = np.array(head_pose(posed(0, 0, 0).points, WFLW98))
    for angles in ((25, 0, 0), (-25, 0, 0), (0, 12, 0), (0, -12, 0), (0, 0, 20), (0, 0, -20), (20, -10, 15)):
        found = np.array(head_pose(posed(*angles).points, WFLW98))
        # One person's proportions shift the pitch; a turn changes it by as much as it should.
        np.testing.assert_allclose(found - at_rest, angles, atol=3.0)


def test_angles_of_many_people_are_near() -> None:
    errors = []
    for i in range(len(FACES)):
        pose, found = FACES.parameters(i).pose, head_pose(FACES.record(i).points, WFLW98)
        assert found is not None
        errors.append([found.yaw - pose.yaw, found.pitch - pose.pitch, found.roll - pose.roll])
    mean = np.abs(errors).mean(0)
    assert mean[0] < 2.5 and mean[1] < 3.5 and mean[2] < 1.0, mean


def test_a_picture_of_another_size_has_the_same_angles() -> None:
    points = posed(15, 5, -8).points
    a, b = head_pose(points, WFLW98), head_pose(points * 7 + 300, WFLW98)
    assert a is not None and b is not None
    np.testing.assert_allclose(a, b, atol=0.01)


def test_both_layouts_name_the_same_landmarks() -> None:
    points98 = posed(15, 5, -8).points
    points68 = np.zeros((68, 2), np.float32)
    points68[list(RIGID["ibug-68"])] = points98[list(RIGID["wflw-98"])]
    assert head_pose(points68, IBUG68) == head_pose(points98, WFLW98)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_points_of_no_head_have_no_pose(value: float) -> None:
    assert head_pose(np.full((68, 2), value), IBUG68) is None


def test_a_layout_of_ones_own_has_no_pose_and_no_openings() -> None:
    layout = Layout("five", 5, (1, 0, 2, 4, 3), (0, 1), {})
    face = Face.of(np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32), np.ones(5, np.float32), layout)
    assert face.pose is None and face.openings == {}


def test_openings_follow_blinks_and_speech() -> None:
    p = replace(FACES.parameters(0), expression=REST)
    rest = face_of(p).openings
    shut = face_of(replace(p, expression=replace(REST, blink_left=1.0))).openings
    speaks = face_of(replace(p, expression=replace(REST, open=0.35))).openings
    assert 0.15 < rest["left_eye"] < 0.6
    assert shut["left_eye"] < 0.5 * rest["left_eye"]
    assert shut["right_eye"] == pytest.approx(rest["right_eye"], abs=0.02)
    assert rest["mouth"] < 0.1 < 0.3 < speaks["mouth"]


def test_parts_of_a_face_are_its_landmarks() -> None:
    face = Face.of(np.arange(136, dtype=np.float32).reshape(68, 2), np.ones(68, np.float32), IBUG68)
    np.testing.assert_array_equal(face.part("left_eye"), face.points[36:42])
    np.testing.assert_array_equal(face.part("eyes"), face.points[36:48])
    np.testing.assert_array_equal(face.part("mouth", "jaw"), face.points[[*range(17), *range(48, 68)]])
    with pytest.raises(UnknownPartError, match=r"no part 'ear': choose from .*left_eye.*mouth"):
        face.part("ear")
