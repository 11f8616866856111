from __future__ import annotations

import functools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from ldeq.data import DataError, FaceRecord, FaceSet, Layout, invert, load_300w, load_wflw_v, transform_points, write_image
from ldeq.data.clips import Clip, make_clips, usable
from ldeq.data.clips.deformation import Expression, FaceDeformation
from ldeq.data.clips.make import photos_of
from ldeq.data.clips.motion import DIFFICULTIES, blink, drift, speak
from ldeq.data.clips.rendering import FaceRenderer, motion_blur
from ldeq.data.layouts import IBUG68, WFLW98
from ldeq.data.synthetic import SyntheticFaces

SIZE = (320, 288)
EXPRESSIONS = [
    Expression(),
    Expression(yaw=0.3, pitch=-0.19, brows=1.0),
    Expression(jaw=22.0, rounding=1.0),
    Expression(jaw=-2.0, rounding=-1.0, closure=0.6),
    Expression(closure=1.0, brows=-1.0),
    Expression(yaw=-0.25, pitch=0.15, jaw=15.0, rounding=-0.7, closure=0.9, brows=0.8),
]


def camera_of(face: FaceDeformation, angle: float = 0.2, side: float = 165.0) -> np.ndarray:
    scale = side / face.side
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.column_stack([turn, np.array([150.0, 165.0]) - turn @ face.centre])


@functools.cache
def labelled(layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """A drawn face and its landmarks, the first 68 places of a person for the smaller layout."""
    faces = SyntheticFaces(8, seed=3, size=256)
    for index in range(8):
        points = faces.record(index).points
        if layout is IBUG68:
            points = points[WFLW98_TO_IBUG68]
        if usable(points, layout, (256, 256), margin=0.02) is None:
            return faces.read(index), points
    raise AssertionError("no synthetic face is seen from the front")


WFLW98_TO_IBUG68 = [
    *range(0, 33, 2), *range(33, 38), *range(42, 47), *range(51, 60),
    60, 61, 63, 64, 65, 67, 68, 69, 71, 72, 73, 75, *range(76, 96),
]  # fmt: skip


@pytest.mark.parametrize("layout", [WFLW98, IBUG68])
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_the_pixel_under_a_label_shows_the_landmark(layout: Layout, expression: Expression) -> None:
    """A photo whose value is the place itself: what the frame shows at a label is where the landmark is in the photo."""
    _, points = labelled(layout)
    face = FaceDeformation(points.astype(np.float64), layout)
    rows, columns = np.mgrid[:256, :256].astype(np.float32)
    renderer = FaceRenderer(np.dstack([columns, rows, rows]), face, SIZE)
    renderer.mouth_colour = np.full(3, -1e6, np.float32)
    camera = camera_of(face)
    frame = renderer.draw(camera, expression)
    labels = renderer.landmarks(camera, expression)
    scale = np.sqrt(np.linalg.det(camera[:, :2]))
    # Lids and lips end at their landmarks; beside an edge the other layer shines through, so those are judged below.
    mouth, eyes = layout.openings["mouth"], (layout.openings["left_eye"], layout.openings["right_eye"])
    edges = {*mouth.upper, *mouth.lower}
    for eye in eyes:
        edges |= {*eye.upper, *eye.lower}
    inside = [i for i in range(layout.count) if i not in edges and not covered(renderer, camera, expression, labels[i])]
    assert len(inside) > 0.6 * layout.count
    shown = np.array([cv2.getRectSubPix(frame, (1, 1), labels[i].astype(np.float32).tolist())[0, 0, :2] for i in inside])
    assert np.abs(shown - points[inside]).max() * scale < 0.05


def covered(renderer: FaceRenderer, camera: np.ndarray, expression: Expression, label: np.ndarray) -> bool:
    """Whether a landmark, such as a pupil, lies within a pixel of a lid that is down or of the lips' edges."""
    face = renderer.face
    place = face.soft(transform_points(invert(camera), label), expression)
    x, y = face.lips.local(place)
    upper, lower = (float(v[0]) for v in face.lips.lines(np.array([x]), expression.jaw))
    margin = 2.0 / np.sqrt(np.linalg.det(camera[:, :2]))
    if abs(x) < 1.05 and upper - margin < y < lower + margin:
        return True
    for eye in face.eyes:
        x, y = eye.local(place)
        edge = float(eye.edge(np.array([x]), expression.closure)[0])
        if abs(x) < 1.05 and expression.closure and float(eye.at(eye.upper, np.array([x]))[0]) - margin < y < edge + margin:
            return True
    return False


@pytest.mark.parametrize("layout", [WFLW98, IBUG68])
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_labels_of_lids_and_lips_lie_on_the_drawn_edges(layout: Layout, expression: Expression) -> None:
    _, points = labelled(layout)
    face = FaceDeformation(points.astype(np.float64), layout)
    camera = camera_of(face)
    labels = transform_points(camera, face.landmarks(expression))
    places = face.soft(transform_points(invert(camera), labels), expression)
    mouth = layout.openings["mouth"]
    for line, edge in ((mouth.upper, 0), (mouth.lower, 1)):
        x, y = np.moveaxis(face.lips.local(places[list(line)]), -1, 0)
        if edge == 1:
            # Crossed labels of closed lips are drawn as touching.
            crossed = face.lips.local(points[list(line)].astype(np.float64))[:, 1] < face.lips.at(face.lips.upper, x) - 0.01
        else:
            crossed = np.zeros(len(line), bool)
        drawn = face.lips.lines(x, expression.jaw)[edge]
        assert np.abs(drawn - y)[1:-1][~crossed[1:-1]].max(initial=0) < 0.05
    for eye, side in zip(face.eyes, ("left", "right"), strict=True):
        x, y = np.moveaxis(eye.local(places[list(layout.openings[f"{side}_eye"].upper)]), -1, 0)
        assert np.abs(eye.edge(x, expression.closure) - y)[1:-1].max() < 0.05


@pytest.mark.parametrize("expression", [EXPRESSIONS[1], EXPRESSIONS[5]])
def test_dots_painted_on_the_photo_are_found_at_their_labels(expression: Expression) -> None:
    """Discs about brow, nose and jaw landmarks, their centroids in the rendered frame."""
    _, points = labelled(WFLW98)
    chosen = [4, 16, 28, 35, 44, 51, 53, 57]
    face = FaceDeformation(points.astype(np.float64), WFLW98)
    camera = camera_of(face)
    for i in chosen:
        rows, columns = np.mgrid[:256, :256]
        dot = 250 * np.exp(-((columns - points[i, 0]) ** 2 + (rows - points[i, 1]) ** 2) / (2 * 1.5**2))
        renderer = FaceRenderer(np.dstack([dot] * 3).astype(np.float32), face, SIZE)
        frame = renderer.draw(camera, expression)[..., 0].astype(np.float64)
        y, x = np.mgrid[: SIZE[0], : SIZE[1]]
        label = renderer.landmarks(camera, expression)[i]
        near = frame * (np.hypot(x - label[0], y - label[1]) < 9)
        centroid = np.array([(near * x).sum(), (near * y).sum()]) / near.sum()
        # A dot in a place that stretches is not quite symmetric.
        assert np.abs(centroid - label).max() < 0.12


def test_closed_is_closed_and_open_is_as_drawn() -> None:
    _, points = labelled(WFLW98)
    face = FaceDeformation(points.astype(np.float64), WFLW98)
    eye, mouth = WFLW98.openings["left_eye"], WFLW98.openings["mouth"]
    still = face.landmarks(Expression())
    np.testing.assert_allclose(still, points, atol=1e-6)
    lids, shut = face.eyes[0], face.landmarks(Expression(closure=1.0))
    x, y = np.moveaxis(lids.local(shut[list(eye.upper)]), -1, 0)
    np.testing.assert_allclose(y, lids.at(lids.lower, x), atol=1e-3)
    half = eye.width(face.landmarks(Expression(closure=0.5))) / eye.width(still)
    assert half == pytest.approx(0.5, abs=0.03)
    opened = mouth.width(face.landmarks(Expression(jaw=20.0)))
    assert 12 < opened - mouth.width(still) < 23
    # The eyes do not move when the mouth does, and the other way round.
    np.testing.assert_allclose(face.landmarks(Expression(jaw=20.0))[60:76], points[60:76], atol=0.02)
    np.testing.assert_allclose(face.landmarks(Expression(closure=1.0))[76:96], points[76:96], atol=1e-6)


def test_an_open_mouth_is_dark_inside_and_lids_close_with_skin() -> None:
    photo, points = labelled(WFLW98)
    face = FaceDeformation(points.astype(np.float64), WFLW98)
    flat = np.full_like(photo, 190)
    # White of the eye and lips painted, so that their colours can be followed.
    cv2.fillPoly(flat, [np.rint(points[60:68]).astype(np.int32)], (255, 255, 255))
    renderer = FaceRenderer(flat, face, SIZE)
    camera = camera_of(face)
    closed, opened = (renderer.draw(camera, e) for e in (Expression(closure=1.0), Expression(jaw=24.0)))
    middle = transform_points(camera, points[60:68].mean(0))
    x, y = np.rint(middle).astype(int)
    assert closed[y, x].max() < 200 <= opened[y, x].min()
    lips = renderer.landmarks(camera, Expression(jaw=24.0))[88:96]
    x, y = np.rint(lips[2] * 0.4 + lips[6] * 0.6).astype(int)
    assert opened[y, x].max() < 90 < closed[y, x].min()


def test_the_maps_do_not_fold() -> None:
    """Along every column of the frame the photo runs on in one direction, within each layer."""
    _, points = labelled(WFLW98)
    face = FaceDeformation(points.astype(np.float64), WFLW98)
    grid = np.stack(np.meshgrid(np.linspace(30, 225, 200), np.linspace(20, 250, 461)), -1)
    for e in EXPRESSIONS:
        for layer in (
            lambda q, e=e: face.soft(q, e),
            lambda q, e=e: face.lips.above(q, e.jaw),
            lambda q, e=e: face.lips.below(q, e.jaw),
            lambda q, e=e: face.eyes[0].lid(q, e.closure),
            lambda q, e=e: face.eyes[1].lid(q, e.closure),
        ):
            place = layer(grid)
            du, dv = np.diff(place, axis=1)[:-1], np.diff(place, axis=0)[:, :-1]
            assert (du[..., 0] * dv[..., 1] - du[..., 1] * dv[..., 0] > 0).all()


def clip_of(difficulty: str = "hard", seed: int = 5, frames: int = 12) -> Clip:
    photo, points = labelled(WFLW98)
    return Clip(photo, points, WFLW98, difficulty, seed, [photo], frames)


def test_a_seed_gives_the_same_clip_and_another_one_another() -> None:
    first, again, other = clip_of(), clip_of(), clip_of(seed=6)
    for a, b in zip(first.frames(), again.frames(), strict=True):
        np.testing.assert_array_equal(a, b)
    # Drawn a second time from the same object as well.
    np.testing.assert_array_equal(next(first.frames()), next(again.frames()))
    np.testing.assert_array_equal(first.landmarks, again.landmarks)
    assert np.abs(first.landmarks - other.landmarks).max() > 1


def test_boxes_are_tight_and_frames_even() -> None:
    for difficulty in DIFFICULTIES:
        clip = clip_of(difficulty, frames=6)
        np.testing.assert_array_equal(clip.boxes[:, :2], clip.landmarks.min(1))
        np.testing.assert_array_equal(clip.boxes[:, 2:], clip.landmarks.max(1))
        frames = list(clip.frames())
        assert len(frames) == len(clip) == 6
        assert frames[0].dtype == np.uint8
        assert frames[0].shape[0] % 2 == 0 == frames[0].shape[1] % 2


def band_power(signal: np.ndarray, fps: float, low: float, high: float) -> float:
    power = np.abs(np.fft.rfft(signal - signal.mean())) ** 2
    frequency = np.fft.rfftfreq(len(signal), 1 / fps)
    return float(power[(frequency >= low) & (frequency < high)].sum() / power.sum())


def test_heads_move_slowly_mouths_at_the_speed_of_speech() -> None:
    rng, time = np.random.default_rng(0), np.arange(3000) / 30
    assert band_power(drift(rng, time, 0.1, 1.0), 30, 0, 1.2) > 0.98
    jaw, rounding = speak(rng, time)
    assert jaw.min() >= 0 and jaw.max() <= 1 and np.abs(rounding).max() <= 1
    assert band_power(jaw, 30, 3, 8) > 0.35


def test_blinks_last_a_fifth_of_a_second() -> None:
    time = np.arange(60000) / 1000
    closure = blink(np.random.default_rng(1), time, (1.0, 3.0))
    edges = np.flatnonzero(np.diff((closure > 0.01).astype(int)))
    lengths = (edges[1::2] - edges[: len(edges) // 2 * 2 : 2]) / 1000
    assert len(lengths) > 10
    assert lengths.min() > 0.13 and lengths.max() < 0.26
    assert closure.max() > 0.95


def test_motion_blur_keeps_the_middle() -> None:
    frame = np.zeros((61, 61, 3), np.uint8)
    frame[30, 30] = 255
    smeared = motion_blur(frame, np.array([7.0, -4.0]))[..., 0].astype(np.float64)
    y, x = np.mgrid[:61, :61]
    assert (smeared * x).sum() / smeared.sum() == pytest.approx(30, abs=0.03)
    assert (smeared * y).sum() / smeared.sum() == pytest.approx(30, abs=0.03)
    assert (smeared > 0).sum() > 7
    assert motion_blur(frame, np.array([0.3, 0.3])) is frame


def test_faces_from_the_side_or_at_the_edge_are_left_out() -> None:
    _, points = labelled(WFLW98)
    assert usable(points, WFLW98, (256, 256), margin=0.02) is None
    assert "edge of the picture" in str(usable(points - points.min(0), WFLW98, (256, 256)))
    profile = points.copy()
    profile[:, 0] = points[:, 0].mean() + 0.3 * (points[:, 0] - points[:, 0].mean())
    assert usable(profile, WFLW98, (256, 256), margin=0.0) is not None
    swapped = points.copy()
    swapped[[61, 62]] = points[[62, 61]]
    assert "folds back" in str(usable(swapped, WFLW98, (256, 256), margin=0.0))


@pytest.fixture
def photos(tmp_path: Path) -> FaceSet:
    records = []
    faces = SyntheticFaces(8, seed=3, size=256)
    for i in range(8):
        write_image(tmp_path / f"photo{i:02d}.png", faces.read(i))
        records.append(FaceRecord(tmp_path / f"photo{i:02d}.png", faces.record(i).points))
    return FaceSet("drawn", WFLW98, records)


def test_a_folder_of_clips_is_read_back_and_repeats_bit_by_bit(tmp_path: Path, photos: FaceSet, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("ldeq.data.clips.clip.usable", lambda *given, **named: usable(*given, margin=0.0, **named))
    for name in ("a", "b"):
        make_clips(photos, tmp_path / name, easy=1, hard=2, seed=4, frames=7, part="all")
    for file in sorted((tmp_path / "a").rglob("*.*")):
        assert file.read_bytes() == (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes(), file
    videos = load_wflw_v(tmp_path / "a", "hard")
    assert [record.name for record in videos.records] == ["hard-000", "hard-001"]
    assert videos.layout is WFLW98
    about = json.loads((tmp_path / "a" / "clips.json").read_text())
    for record in load_wflw_v(tmp_path / "a").records:
        clip = about["clips"][record.name]
        frames = list(record.frames())
        assert len(frames) == len(record) == clip["frames"] == 7
        assert frames[0].shape == (clip["height"], clip["width"], 3)
        assert record.fps == clip["fps"]
    assert len({clip["photo"] for clip in about["clips"].values()}) == 3
    with pytest.raises(DataError, match="is not empty"):
        make_clips(photos, tmp_path / "a")


def test_encoding_keeps_the_picture(tmp_path: Path) -> None:
    from ldeq.data.wflw_v import read_frames, write_frames

    clip = clip_of("easy", frames=5)
    frames = list(clip.frames())
    write_frames(tmp_path / "x.mp4", frames, 30, frames[0].shape[:2])
    for read, written in zip(read_frames(tmp_path / "x.mp4", 5), frames, strict=True):
        grey = [cv2.cvtColor(f, cv2.COLOR_RGB2GRAY).astype(np.float64) for f in (read, written)]
        assert np.sqrt(((grey[0] - grey[1]) ** 2).mean()) < 4.0


def test_tune_and_test_share_no_photo(photos: FaceSet) -> None:
    tune, test = photos_of(photos, "tune"), photos_of(photos, "test")
    assert not set(tune) & set(test)
    assert sorted(tune + test) == photos_of(photos, "all") == list(range(8))
    assert max(tune) < min(test)
    with pytest.raises(DataError, match="unknown part"):
        photos_of(photos, "train")


def test_clips_of_nothing_are_refused(tmp_path: Path, photos: FaceSet) -> None:
    with pytest.raises(DataError, match="no clip to make"):
        make_clips(photos, tmp_path / "none", easy=0, hard=0)
    with pytest.raises(DataError, match=f"none of the {len(photos_of(photos, 'test'))} photos of cut can be moved"):
        cut = [FaceRecord(r.image, r.points - 100) for r in photos.records]
        make_clips(FaceSet("cut", WFLW98, cut), tmp_path / "cut", easy=1)


def test_real_photos_can_be_moved(real_300w: Path) -> None:
    faces = load_300w(real_300w, "helen-test")
    moved = 0
    for index in range(0, 330, 66):
        record = faces.record(index)
        photo = faces.read(index)
        if usable(record.points, IBUG68, photo.shape[:2]) is None:
            clip = Clip(photo, record.points, IBUG68, "hard", index, [photo], frames=30)
            next(clip.frames())
            assert np.isfinite(clip.landmarks).all()
            # The face stays in view.
            assert clip.boxes[:, 2:].min() > 60 and clip.boxes[:, :2].max() < 260
            moved += 1
    assert moved > 2
