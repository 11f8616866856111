"""Labelled videos through a tracker: batches of unequal length, boxes, losses, filters, the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ldeq import metrics
from ldeq.cli import main
from ldeq.data import IBUG68, DataError, VideoSet, load_wflw_v, open_faces, write_wflw_v
from ldeq.engine.settings import TrainSettings
from ldeq.engine.weights import save_weights
from ldeq.models import LDEQ, LDEQConfig
from ldeq.video.evaluation import (
    VideoTrack,
    jittered,
    markdown_table,
    protocol_line,
    score,
    track_videos,
    write_report,
)
from ldeq.video.filters import make_filter
from ldeq.video.tracking import Tracker, TrackingSettings

pytest.importorskip("av")

LENGTHS = {"one": 6, "two": 9, "three": 4, "four": 7}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> VideoSet:
    root = tmp_path_factory.mktemp("videos")
    rng = np.random.default_rng(0)
    faces = open_faces("synthetic:4#size=128")
    for i, (name, frames) in enumerate(LENGTHS.items()):
        picture, points = faces.read(i), faces.record(i).points
        ways = rng.integers(-2, 3, (frames, 2)).cumsum(0)
        moved = (points[None] + ways[:, None]).astype(np.float32)
        shots = [np.roll(picture, (int(y), int(x)), (0, 1)) for x, y in ways]
        write_wflw_v(root, name, shots, moved, np.concatenate([moved.min(1), moved.max(1)], 1), 30, (128, 128))
    return load_wflw_v(root)


@pytest.fixture(scope="module")
def model() -> LDEQ:
    torch.manual_seed(0)
    return LDEQ(LDEQConfig.tiny(landmarks=98, image_size=32, width=16, depth=1, groups=4)).eval()


# An untrained cell does not settle; these tests are about the bookkeeping.
LENIENT = {"settled": 1e9, "check_every": 0}


@pytest.mark.parametrize("boxes", ["given", "tracked"])
@pytest.mark.parametrize("rwr", [True, False])
def test_the_batch_does_not_matter(videos: VideoSet, model: LDEQ, boxes: str, rwr: bool) -> None:
    results = []
    for batch in (1, 3, 8):
        tracker = Tracker(model, settings=TrackingSettings(rwr=rwr, **LENIENT))
        done: list[int] = []
        tracks = track_videos(tracker, videos, boxes, batch=batch, progress=lambda d, n, done=done: done.append(d))
        assert [t.name for t in tracks] == [r.name for r in videos.records]
        assert [len(t.predicted) for t in tracks] == [len(r) for r in videos.records]
        assert done[-1] == sum(LENGTHS.values())
        results.append(np.concatenate([t.predicted for t in tracks]))
    np.testing.assert_allclose(results[1], results[0], atol=2e-2)
    np.testing.assert_allclose(results[2], results[0], atol=2e-2)


def test_it_is_what_the_tracker_says_frame_by_frame(videos: VideoSet, model: LDEQ) -> None:
    tracks = track_videos(Tracker(model, settings=TrackingSettings(**LENIENT)), videos, "given", batch=1)
    for track, record in zip(tracks, videos.records, strict=True):
        tracker = Tracker(model, settings=TrackingSettings(**LENIENT))
        state, evaluations = tracker.start(), 0
        for t, frame in enumerate(record.frames()):
            estimate = tracker.step([frame], [state], record.boxes[t : t + 1])[0]
            np.testing.assert_array_equal(estimate.points.astype(np.float32), track.predicted[t])
            evaluations += estimate.evaluations
        assert track.evaluations == evaluations / len(record)
        np.testing.assert_array_equal(track.points, record.points)
        assert track.fps == 30


def test_a_lost_face_starts_again_from_the_next_box(videos: VideoSet, model: LDEQ) -> None:
    # No residual is below zero: every full solve is doubted, and every frame is a start.
    tracks = track_videos(Tracker(model, settings=TrackingSettings(settled=0.0)), videos)
    for track in tracks:
        assert track.lost == tuple(range(len(track.predicted)))
        assert np.isfinite(track.predicted).all()


def test_jitter_is_seeded_per_video_and_of_its_size() -> None:
    boxes = np.tile([10.0, 20.0, 110.0, 90.0], (20000, 1))
    a, b = (jittered(boxes, 0.02, np.random.default_rng([0, 1])) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    assert (a - boxes).std() == pytest.approx(2.0, rel=0.02)
    np.testing.assert_array_equal(jittered(boxes, 0.0, np.random.default_rng(0)), boxes)
    wild = jittered(boxes, 5.0, np.random.default_rng(0))
    assert (wild[:, 2:] > wild[:, :2]).all()
    assert np.abs(wild - boxes).max() == pytest.approx(0.2 * 100)  # a fifth of the longer side


def made_tracks() -> list[VideoTrack]:
    rng = np.random.default_rng(2)
    tracks = []
    for i, frames in enumerate((40, 25)):
        time = np.arange(frames)[:, None, None] / 30
        points = (rng.uniform(0, 100, (68, 2)) + 10 * np.sin(5 * time)).astype(np.float32)
        predicted = points + rng.normal(0, 1 + i, points.shape).astype(np.float32)
        tracks.append(VideoTrack(f"v{i}", 30.0, predicted, np.ones((frames, 68), np.float32), points, (3,) * i, 1.5))
    return tracks


def test_the_mean_over_videos_is_plain(tmp_path: Path) -> None:
    tracks = made_tracks()
    scores = score(tracks, IBUG68, "how")
    each = [metrics.normalised_mean_flicker(t.predicted, t.points) for t in tracks]
    assert scores.mean["nmf"] == pytest.approx(sum(each) / 2, rel=1e-12)
    assert scores.lost == 1
    smooth = [t.filtered(make_filter("ema", IBUG68)) for t in tracks]
    assert score(smooth, IBUG68, "how").mean["nmf"] < scores.mean["nmf"]
    table = markdown_table({"alone": scores, "ema": score(smooth, IBUG68, "how")})
    assert table.startswith("how\n")
    assert f"{scores.mean['nmf']:.1f}" in table
    paths = write_report({"alone": scores}, {"alone": tracks}, tmp_path / "report")
    written = json.loads(paths[1].read_text())
    assert written["alone"]["videos"]["v1"]["nmf"] == pytest.approx(each[1], abs=1e-4)
    np.testing.assert_array_equal(np.load(paths[2])["alone/v0/predicted"], tracks[0].predicted)


def test_a_lag_that_is_not_defined_is_left_out() -> None:
    tracks = made_tracks()
    still = np.repeat(tracks[0].points[:1], 20, 0)
    tracks.append(VideoTrack("still", 30.0, still + np.float32(0.5), np.ones((20, 68), np.float32), still))
    scores = score(tracks, IBUG68, "how")
    assert np.isnan(scores.videos["still"]["lag"])
    assert np.isfinite(scores.mean["lag"])
    with pytest.raises(DataError, match="no video to score"):
        score([], IBUG68, "how")


def test_the_protocol_names_boxes_and_numbers(videos: VideoSet, model: LDEQ) -> None:
    line = protocol_line(videos, Tracker(model), "tracked", 0.02, "model x")
    for part in ("4 videos", "26 frames", "model x", "first box given, then tracked", "noise of 2 %", "inter-ocular"):
        assert part in line


def test_another_layout_is_refused(videos: VideoSet) -> None:
    other = LDEQ(LDEQConfig.tiny(landmarks=68, image_size=32, width=16, depth=1, groups=4)).eval()
    with pytest.raises(DataError, match="predicts 68 landmarks"):
        track_videos(Tracker(other), videos)
    with pytest.raises(ValueError, match="batch must be at least 1"):
        track_videos(Tracker(other), videos, batch=0)


def test_the_command(videos: VideoSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = TrainSettings(model=LDEQConfig.tiny(landmarks=98, image_size=32, width=16, depth=1, groups=4))
    torch.manual_seed(0)
    save_weights(tmp_path / "w.safetensors", LDEQ(settings.model), open_faces("synthetic:1").layout, settings)
    root = videos.records[0].video.parents[1]
    command = ["eval", str(tmp_path / "w.safetensors"), "--data", f"wflw-v:{root}", "--rwr", "--baseline", "oneeuro,ema"]
    assert main([*command, "--smooth", "face-frame", "--boxes", "given", "--report", str(tmp_path / "r")]) == 0
    out = capsys.readouterr().out
    for row in ("each frame alone", "each frame alone + one-euro", "each frame alone + ema", "RwR, 1 evaluation + face-frame"):
        assert f"| {row} |" in out
    assert "4 videos, 26 frames" in out
    assert (tmp_path / "r" / "report.json").is_file()
    assert main([*command[:3], "synthetic:2", "--rwr"]) != 0
    assert "is for videos" in capsys.readouterr().err
    assert main([*command, "--smooth", "one-eruo"]) != 0
    assert "did you mean one-euro?" in capsys.readouterr().err
    # Settings follow the filter's name, and the published budget has a row of its own.
    more = ["--released", "--baseline", "one-euro,min_cutoff=2,beta=3,oneeuro,ema,cutoff=4"]
    assert main([*command[:4], "--boxes", "given", *more]) == 0
    out = capsys.readouterr().out
    for row in ("one-euro,min_cutoff=2,beta=3", "one-euro", "ema,cutoff=4"):
        assert f"| each frame alone + {row} |" in out
    (released,) = [line for line in out.splitlines() if line.startswith("| RwR as released |")]
    assert released.endswith("| 0 | 2.00 |")
    assert "| RwR, 1 evaluation |" not in out
    assert main([*command[:4], "--baseline", "ema,cutof=4"]) != 0
    assert "did you mean cutoff?" in capsys.readouterr().err
    assert main([*command[:3], "synthetic:2", "--released"]) != 0
    assert "is for videos" in capsys.readouterr().err
