"""``ldeq score`` reads any tool's file, tells the same for the same track, and ends every bad file in a sentence."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from clips import moving, write_clip

from ldeq.cli import main
from ldeq.data import IBUG68, DataError
from ldeq.data.synthetic import SyntheticFaces
from ldeq.face import Face
from ldeq.metrics import video_summary
from ldeq.metrics.stability import at_rest
from ldeq.video.landmark_files import CsvLandmarks, JsonLandmarks
from ldeq.video.scoring import score_track, table
from ldeq.video.track_files import TRACK_LAYOUTS, Track, read_track

# The first 68 of 98 points are a shape as good as any: sizes and shapes matter here, not meanings.
BASE = SyntheticFaces(3, seed=1, size=256).record(0).points[:68].astype(np.float64)
NOISE = np.random.default_rng(0).normal(0, 1.0, (60, 68, 2))
MOTION = np.cumsum(np.random.default_rng(1).normal(0, 2.0, (60, 1, 2)), 0)
TRUTH = BASE + MOTION
FOUND = np.round(TRUTH + NOISE, 2)


def faces(points: np.ndarray, id: int = 0) -> list[Face]:
    return [Face.of(points.astype(np.float32), np.ones(68, np.float32), IBUG68, id)]


def ours(folder: Path, points: np.ndarray = FOUND) -> tuple[Path, Path]:
    writers = CsvLandmarks(folder / "t.csv", IBUG68), JsonLandmarks(folder / "t.json", {"fps": 30.0})
    for frame, row in enumerate(points):
        for writer in writers:
            if np.isfinite(row).all():
                writer.write(frame, frame / 30, faces(row))
            else:
                writer.write(frame, frame / 30, [])
    for writer in writers:
        writer.close()
    return folder / "t.csv", folder / "t.json"


def plain(path: Path, names: list[str], rows: list[list[object]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([names, *rows])
    return path


def openface(path: Path, points: np.ndarray = FOUND) -> Path:
    names = ["frame", " face_id", " timestamp", " confidence", " success"]
    names += [f" x_{i}" for i in range(68)] + [f" y_{i}" for i in range(68)]
    rows: list[list[object]] = []
    for t, p in enumerate(points):
        good = np.isfinite(p).all()
        rows.append([t + 1, 0, t / 30, 0.98, int(good), *np.nan_to_num(p[:, 0]), *np.nan_to_num(p[:, 1])])
    return plain(path, names, rows)


def test_every_format_holds_the_same_track(tmp_path: Path) -> None:
    holes = FOUND.copy()
    holes[20:24] = np.nan
    a, b = ours(tmp_path, holes)
    flat = [[t, *row.ravel()] for t, row in enumerate(holes) if np.isfinite(row).all()]
    c = plain(tmp_path / "p.csv", ["frame", *(f"{axis}{i}" for i in range(68) for axis in "xy")], flat)
    d = openface(tmp_path / "o.csv", holes)
    np.save(tmp_path / "n.npy", holes)
    for path in (a, b, c, d, tmp_path / "n.npy"):
        track = read_track(path)
        np.testing.assert_allclose(track.points, holes, atol=0.006)
        assert track.found.sum() == 56 and track.layout is IBUG68
    for path in (a, b, d):
        assert read_track(path).fps == pytest.approx(30, rel=1e-3)


def test_one_large_number_of_a_frame_does_not_take_all_memory(tmp_path: Path) -> None:
    row = [1_999_999, *FOUND[0].ravel()]
    path = plain(tmp_path / "p.csv", ["frame", *(f"{axis}_{i}" for i in range(68) for axis in "xy")], [row])
    with pytest.raises(DataError, match="reaches frame 1999999, too far for the memory"):
        read_track(path)


def test_fractions_become_pixels(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", (FOUND + 0.5) / (640, 480))
    np.testing.assert_allclose(read_track(tmp_path / "f.npy", size=(640, 480)).points, FOUND)
    with pytest.raises(DataError, match="look like fractions of the picture: add --fractions"):
        read_track(tmp_path / "f.npy")


def test_the_face_of_most_frames_is_taken_unless_one_is_named(tmp_path: Path) -> None:
    writer = CsvLandmarks(tmp_path / "t.csv", IBUG68)
    for t, row in enumerate(FOUND):
        writer.write(t, t / 25, faces(row + 300, 4) + (faces(row, 7) if t > 10 else []))
    writer.close()
    assert read_track(tmp_path / "t.csv").found.all()
    seven = read_track(tmp_path / "t.csv", "7")
    assert (seven.found.sum(), seven.faces) == (49, 2)
    np.testing.assert_allclose(seven.points[11:], FOUND[11:], atol=0.006)
    with pytest.raises(DataError, match="has no face '5': it has 4, 7"):
        read_track(tmp_path / "t.csv", "5")


def test_figures_with_a_truth_are_those_of_the_metrics() -> None:
    track, truth = Track("a", FOUND, IBUG68), Track("t", TRUTH, IBUG68)
    figures = score_track(track, 25, truth)
    for name, value in video_summary(FOUND, TRUTH, IBUG68).items():
        assert figures[name] == pytest.approx(value, nan_ok=True), name
    assert figures["found"] == 100


def test_a_delay_is_seen_without_a_truth() -> None:
    late = np.concatenate([FOUND[:1], FOUND[:1], FOUND[:-2]])
    figures = score_track(Track("late", late, IBUG68), 25, raw=Track("raw", FOUND, IBUG68))
    assert figures["lag_raw"] == pytest.approx(2, abs=0.1)


def test_a_lost_face_splits_the_track_and_is_counted() -> None:
    """Over the gap the face moves: without the split that would be jitter."""
    t = np.arange(60)[:, None, None]
    points = BASE + np.where(t < 30, t * 1.0, 300 + t * 1.0)
    points[28:32] = np.nan
    figures = score_track(Track("a", points, IBUG68), 25)
    assert figures["jitter"] < 1e-6
    assert figures["found"] == pytest.approx(100 * 56 / 60)


def test_jitter_at_rest_needs_rest() -> None:
    moves = BASE + 10.0 * np.arange(60)[:, None, None]
    assert np.isnan(score_track(Track("a", moves, IBUG68), 25)["jitter_rest"])
    rests = BASE + 0.2 * NOISE
    assert score_track(Track("a", rests, IBUG68), 25)["jitter_rest"] == pytest.approx(
        score_track(Track("a", rests, IBUG68), 25)["jitter"], rel=0.2
    )


def test_the_table_leaves_out_what_nobody_has() -> None:
    text = table({"a": {"jitter": 1.0, "jitter_rest": float("nan")}, "b": {"jitter": -0.001}}, "how")
    assert text.splitlines()[2:] == ["| track | jitter, % of sqrt(wh) |", "| --- | --- |", "| a | 1.00 |", "| b | 0.00 |"]


def test_the_mesh_of_mediapipe_can_be_scored() -> None:
    points = np.random.default_rng(0).uniform(0, 200, (1, 478, 2)) + np.arange(20)[:, None, None]
    figures = score_track(Track("m", points, TRACK_LAYOUTS[478]), 25, Track("t", points, TRACK_LAYOUTS[478]))
    assert figures["nme"] == 0 and figures["mouth"] == 0


def test_the_mesh_names_points_of_the_rims_that_mediapipe_publishes() -> None:
    """`FACEMESH_RIGHT_EYE`, `FACEMESH_LEFT_EYE` (the person's) and the inner ring of `FACEMESH_LIPS`."""
    rims = {
        "left_eye": {33, 7, 163, 144, 145, 153, 154, 155, 133, 246, 161, 160, 159, 158, 157, 173},
        "right_eye": {263, 249, 390, 373, 374, 380, 381, 382, 362, 466, 388, 387, 386, 385, 384, 398},
        "mouth": {78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95},
    }
    for count in (468, 478):
        layout = TRACK_LAYOUTS[count]
        assert set(layout.outer_eyes) == {33, 263}
        for name, opening in layout.openings.items():
            assert {*opening.upper, *opening.lower} <= rims[name]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "has no column \"frame\""),
        ("frame\n0\n", "lacks the column x_0"),
        ("frame,x_0,y_0,x_1\n", "lacks the column"),
        ("frame,x_0,x_0,y_0\n", "has the column 'x_0' twice"),
        ("frame,x_0,y_0\n0,1\n", "line 2 of .* has 2 columns, the first line 3"),
        ("frame,x_0,y_0\n0,1,1_0\n", "line 2 of .* holds '1_0' where a number is expected"),
        ("frame,x_0,y_0\n0,1,b\n", "line 2 of .* holds 'b' where a number is expected"),
        ("frame,x_0,y_0\n0.5,1,2\n", "line 2 of .* has the number 0.5: frames are numbered from 0"),
        ("frame,x_0,y_0\n9e12,1,2\n", "frames are numbered from 0"),
        ("frame,x_0,y_0\n-1,1,2\n", "frames are numbered from 0"),
        ("frame,x_0,y_0\n0,1e9,2\n", "a coordinate that lies in no picture"),
        ("frame,x_0,y_0\n0,11,12\n", "has 1 landmarks: sets of 68, 98, 468, 478 are known"),
        ("frame,x_0,y_0\n", "holds no face"),
        ('frame,x_0,y_0\n0,"1\n', "no line of a table|columns"),
        ("\0", "NUL"),
    ],
)  # fmt: skip
def test_a_table_that_is_none_is_a_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=sentence):
        read_track(tmp_path / "t.csv")


@pytest.mark.parametrize(
    "text",
    ["", "[", "[]", "{}", '{"frames": 1}', '{"frames": [1]}', '{"frames": [{}]}', '{"frames": [{"frame": 0, "faces": 3}]}',
     '{"frames": [{"frame": true, "faces": []}]}', '{"frames": [{"frame": 0, "faces": [{"id": 0, "points": [[1]]}]}]}',
     '{"frames": [{"frame": 0, "faces": [{"id": 0, "points": [[1, {}]]}]}]}', '{"frames": []}', "[" * 100_000],
)  # fmt: skip
def test_a_document_that_is_none_is_a_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(DataError, match=r"t\.json"):
        read_track(tmp_path / "t.json")


@pytest.mark.parametrize("fps", [2e-320, 0, -25, 1e30, True, "25", [25]])
def test_a_rate_that_no_video_has_is_a_sentence(fps: object, tmp_path: Path) -> None:
    """A very small one divided by zero in the Gaussian of the frames at rest."""
    document = json.loads(ours(tmp_path)[1].read_text())
    (tmp_path / "t.json").write_text(json.dumps({**document, "fps": fps}))
    with pytest.raises(DataError, match=r"t\.json cannot be scored: fps must be frames a second, from 1e-06 to 100,000, got"):
        read_track(tmp_path / "t.json")
    with pytest.raises(ValueError, match="fps must be frames a second"):
        at_rest(TRUTH, fps)  # type: ignore[arg-type]
    assert at_rest(TRUTH, 1e-6).shape == (60,)


@pytest.mark.parametrize("array", [np.zeros(3), np.zeros((2, 68, 3)), np.zeros((0, 68, 2)), np.array([{}] * 4, object)])
def test_an_array_that_is_none_is_a_sentence(array: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", array, allow_pickle=True)
    with pytest.raises(DataError, match=r"t\.npy"):
        read_track(tmp_path / "t.npy")


def test_tracks_of_other_landmarks_are_not_compared() -> None:
    other = Track("b", np.zeros((60, 98, 2)) + np.random.default_rng(0).normal(size=(98, 2)), TRACK_LAYOUTS[98])
    with pytest.raises(DataError, match="a has 68 landmarks and the truth b 98"):
        score_track(Track("a", FOUND, IBUG68), 25, other)
    with pytest.raises(DataError, match="no 8 frames in a row"):
        score_track(Track("a", FOUND[:5], IBUG68), 25)


def test_the_command_writes_a_page_with_plots_and_protects_what_it_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = ours(tmp_path)
    np.save(tmp_path / "truth.npy", TRUTH)
    clip = write_clip(tmp_path / "c.mp4", list(moving(3, 4)))
    words = ["score", str(a), str(b), "--truth", str(tmp_path / "truth.npy"), "--video", str(clip)]
    assert main([*words, "--report", str(tmp_path / "r.html"), "--json", str(tmp_path / "s.json")]) == 0
    told = capsys.readouterr().out
    assert "c.mp4, 60 frames at 25 a second, ibug-68; truth truth.npy" in told
    page = (tmp_path / "r.html").read_text()
    assert "data:image/png;base64," in page and "<td>t.csv</td>" in page and "<script" not in page
    figures = json.loads((tmp_path / "s.json").read_text())["tracks"]["t.csv"]
    assert figures["nmf"] == pytest.approx(video_summary(FOUND, TRUTH, IBUG68)["nmf"], rel=1e-3)
    before = a.read_bytes()
    assert main([*words, "--json", str(a)]) == 2
    assert "which is read; choose another name" in capsys.readouterr().err
    assert a.read_bytes() == before
    assert main(["score", str(a), "--report", str(tmp_path / "r.txt")]) == 2
    assert main(["score", str(a), "--fractions"]) == 2
    assert main(["score", str(a), "--fps", "0"]) == 2


def test_frames_of_a_table_count_from_0_unless_openface_wrote_it(tmp_path: Path) -> None:
    names = ["frame", "face_id", *(f"{axis}_{i}" for i in range(68) for axis in "xy")]
    rows: list[list[object]] = [[t, 0, *p.ravel()] for t, p in enumerate(FOUND)]
    assert read_track(plain(tmp_path / "t.csv", names, rows)).found.all()
    np.testing.assert_array_equal(read_track(tmp_path / "t.csv").points[0], FOUND[0])
