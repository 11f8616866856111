"""What is counted while labelled videos are scored, which encoder is taken, and where sources and cameras draw their lines."""

from __future__ import annotations

import types
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ldeq.data import IBUG68, DataError, write_image
from ldeq.video import encoders
from ldeq.video.encoders import ENCODERS, Encoder, choose_encoder
from ldeq.video.evaluation import COLUMNS, VideoEvaluation, VideoTrack, jittered, markdown_table, score, track_videos
from ldeq.video.reading import VideoError
from ldeq.video.sources import camera_rate, open_video


class Record:
    """A labelled video of frames that say their number."""

    def __init__(self, name: str, frames: int, side: float) -> None:
        self.name, self.fps, self.count = name, 25.0, frames
        self.points = np.zeros((frames, 68, 2), np.float32)
        self.points[:] = np.random.default_rng(frames).uniform(0, 100, (68, 2))
        self.boxes = np.array([[t, 0.0, t + side, side] for t in range(frames)], np.float32)

    def __len__(self) -> int:
        return self.count

    def frames(self) -> Iterator[Any]:
        for t in range(self.count):
            yield np.full((2, 2, 3), t, np.uint8)


class Counting:
    """A tracker that answers with the number of the frame, and loses and breaks down where it is told."""

    def __init__(self, lost: dict[int, list[int]], broken: dict[int, list[int]]) -> None:
        self.lost, self.broken = lost, broken
        self.model = types.SimpleNamespace(config=types.SimpleNamespace(landmarks=68))
        self.crop_scale = 1.2
        self.started: list[Any] = []
        self.batches: list[int] = []

    def start(self, box: Any = None, refine: int = 0) -> Any:
        self.started.append(None if box is None else np.round(np.asarray(box, float), 4).tolist())
        return types.SimpleNamespace()

    def step(self, frames: Any, states: Any, boxes: Any = None) -> list[Any]:
        self.batches.append(len(frames))
        self.boxes = boxes
        answers = []
        for row, frame in enumerate(frames):
            t = int(frame[0, 0, 0])
            value = np.nan if t in self.broken.get(row, []) else float(t)
            answers.append(
                types.SimpleNamespace(
                    points=np.full((68, 2), value, np.float32), std=np.full(68, t, np.float32), evaluations=t + 1,
                    lost="it went" if t in self.lost.get(row, []) else None,
                )
            )  # fmt: skip
        return answers


def videos(*lengths: int) -> Any:
    records = [Record(f"v{n}", n, 50.0) for n in lengths]
    return types.SimpleNamespace(name="made", layout=IBUG68, records=records)


def test_each_frame_is_counted_once_and_videos_come_in_their_order() -> None:
    tracker, done = Counting({0: [1, 4]}, {}), []
    tracks = track_videos(tracker, videos(5, 3, 4), batch=2, progress=lambda d, n: done.append((d, n)))  # type: ignore[arg-type]
    assert [t.name for t in tracks] == ["v5", "v3", "v4"]
    # Two at a time; one that ends makes room.
    assert tracker.batches == [2, 2, 2, 2, 2, 1, 1] and done == [
        (2, 12),
        (4, 12),
        (6, 12),
        (8, 12),
        (10, 12),
        (11, 12),
        (12, 12),
    ]
    for track, n in zip(tracks, (5, 3, 4), strict=True):
        assert track.predicted[:, 0, 0].tolist() == list(range(n)) and track.std[:, 0].tolist() == list(range(n))
        assert track.evaluations == (n + 1) / 2 and track.fps == 25.0
    assert tracks[0].lost == (1, 4) and tracks[1].lost == ()
    # First boxes, and after a loss the box of the next frame; behind the last frame the last one.
    assert [box[0] for box in tracker.started] == [0.0, 0.0, 2.0, 0.0, 4.0]


def test_a_model_that_breaks_down_repeats_its_last_answer() -> None:
    (track,) = track_videos(Counting({}, {0: [0, 2]}), videos(4))  # type: ignore[arg-type]
    assert np.isnan(track.predicted[0]).all()  # there is no answer before the first
    assert track.predicted[1:, 0, 0].tolist() == [1.0, 1.0, 3.0]


def test_given_boxes_are_those_of_each_frame_and_jitter_is_bounded() -> None:
    tracker = Counting({0: [1]}, {})
    track_videos(tracker, videos(3), "given")  # type: ignore[arg-type]
    assert tracker.started == [None, None]
    np.testing.assert_array_equal(tracker.boxes, [[2.0, 0.0, 52.0, 50.0]])
    boxes = np.array([[0.0, 0.0, 40.0, 100.0]] * 4000)
    noise = jittered(boxes, 0.05, np.random.default_rng(0)) - boxes
    assert noise.std() == pytest.approx(5.0, rel=0.03) and abs(noise.mean()) < 0.2
    strong = jittered(boxes, 5.0, np.random.default_rng(0)) - boxes
    assert (strong.min(), strong.max()) == (-20.0, 20.0)
    np.testing.assert_array_equal(jittered(boxes, 0.0, np.random.default_rng(0)), boxes)
    for options in ({"batch": 0}, {"jitter": -0.1}, {"jitter": float("nan")}):
        with pytest.raises(ValueError, match="^batch must be at least 1 and jitter at least 0, got "):
            track_videos(Counting({}, {}), videos(3), **options)  # type: ignore[arg-type]


def test_the_table_gives_each_figure_its_digits() -> None:
    values = {name: 1.23456 * (i + 1) for i, name in enumerate(COLUMNS)}
    evaluation = VideoEvaluation("how", {"a": values, "b": {k: 3 * v for k, v in values.items()}}, 7, 2.341)
    lines = markdown_table({"plain": evaluation, "other": evaluation}).splitlines()
    assert lines[0] == "how" and lines[1] == "" and len(lines) == 6
    assert lines[2].count("|") == lines[3].count("|") == lines[4].count("|") == len(COLUMNS) + 4
    mean = {k: 2 * v for k, v in values.items()}
    digits = [f"{mean[k]:.1f}" if k in ("nmf", "nad1", "nad8") else f"{mean[k]:.2f}" for k in COLUMNS]
    assert lines[4] == "| plain | " + " | ".join(digits) + " | 7 | 2.34 |"
    with pytest.raises(DataError, match="no video to score"):
        score([], IBUG68, "how")


def test_scores_count_lost_frames_and_mean_evaluations() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 100, (12, 68, 2)).astype(np.float32)
    tracks = [
        VideoTrack(str(i), 25.0, points + 1, np.ones((12, 68), np.float32), points, tuple(range(i)), float(i)) for i in range(4)
    ]
    found = score(tracks, IBUG68, "how")
    assert (found.lost, found.evaluations, list(found.videos), found.protocol) == (6, 1.5, ["0", "1", "2", "3"], "how")


# --- encoders ---


class Context:
    def __init__(self, name: str, fails: Exception | None) -> None:
        self.name, self.fails = name, fails

    def open(self) -> None:
        if self.fails:
            raise self.fails


class FFmpegError(Exception):
    def __init__(self, strerror: str) -> None:
        super().__init__(strerror)
        self.strerror = strerror


def fake_av(faults: dict[str, Exception | None]) -> Any:
    made: list[Context] = []

    def create(name: str, mode: str) -> Context:
        if name not in faults:
            raise ValueError(f"no codec {name}")
        made.append(Context(name, faults[name]))
        return made[-1]

    return types.SimpleNamespace(
        CodecContext=types.SimpleNamespace(create=create), error=types.SimpleNamespace(FFmpegError=FFmpegError), made=made
    )


def test_the_first_encoder_that_opens_is_taken() -> None:
    av = fake_av({"libopenh264": FFmpegError("busy"), "h264_nvenc": None, "mpeg4": None})
    assert choose_encoder(av, ".mp4", 64, 48, Fraction(25)).name == "h264_nvenc"
    assert choose_encoder(fake_av({"libvpx-vp9": None, "mpeg4": None}), ".mp4", 64, 48, Fraction(25)).name == "mpeg4"
    assert choose_encoder(fake_av({"libvpx-vp9": None, "mpeg4": None}), ".mkv", 64, 48, Fraction(25)).name == "libvpx-vp9"
    with pytest.raises(VideoError) as caught:
        choose_encoder(
            fake_av({"libopenh264": FFmpegError("busy"), "h264_qsv": FFmpegError("no card")}), ".mp4", 64, 48, Fraction(25)
        )
    assert str(caught.value).startswith(
        "no encoder of this FFmpeg writes 64 x 48 pixels to .mp4 files (libopenh264: busy; h264_qsv: no card); install PyAV"
    )
    with pytest.raises(VideoError, match=r"to \.mp4 files; install PyAV"):
        choose_encoder(fake_av({}), ".mp4", 64, 48, Fraction(25))


def test_encoders_are_set_as_stated() -> None:
    x264 = ENCODERS[0]
    for rate, expected in (
        (Fraction(5), {"tune": "zerolatency"}),
        (Fraction(10), {"bf": "2", "rc-lookahead": "1", "sliced-threads": "1"}),
        (Fraction(25), {"bf": "2", "rc-lookahead": "7", "sliced-threads": "1"}),
        (Fraction(60), {"bf": "2", "rc-lookahead": "10", "sliced-threads": "1"}),
    ):
        context: Any = types.SimpleNamespace()
        x264.configure(context, 64, 48, rate)
        assert context.options == {"crf": "18", "preset": "veryfast", **expected}
        assert (context.width, context.height, context.pix_fmt, context.gop_size) == (64, 48, "yuv420p", 125)
        assert (context.time_base, context.framerate) == (Fraction(1, 90_000), rate)
        x264.configure(context, 64, 48, rate, reorder=False)
        assert context.options["bf"] == "0"
    other: Any = types.SimpleNamespace()
    Encoder("mpeg4", options={"a": "1"}).configure(other, 640, 360, Fraction(25))
    assert (other.options, other.bit_rate) == ({"a": "1"}, int(0.2 * 640 * 360 * 25))
    Encoder("mpeg4").configure(other, 640, 360, Fraction(240))
    assert other.bit_rate == int(0.2 * 640 * 360 * 60)
    Encoder("mpeg4").configure(other, 64, 48, Fraction(25))
    assert other.bit_rate == 200_000
    assert encoders.HELD_BACK == 0.4


# --- sources ---


def test_rates_at_their_bounds(tmp_path: Path) -> None:
    for reported in (1.0, 29.97, 480.0):
        assert camera_rate(reported) == (reported, None)
    for reported in (0.99, 481.0, -1.0, float("nan"), float("inf")):
        rate, told = camera_rate(reported)
        assert rate == 30.0
        assert told == f"the camera reports {reported:g} frames a second, which cannot be; 30 are assumed"
    for n in range(3):
        write_image(tmp_path / f"f{n}.png", np.full((8, 10, 3), 40 * n, np.uint8))
    for fps in (1e-3, 12.5, 1000):
        video = open_video(tmp_path, fps)
        assert float(video.rate) == fps
        assert [frame.time for frame in video] == pytest.approx([0.0, 1 / fps, 2 / fps])
    assert open_video(tmp_path).rate == 25
    for fps in (0, -1, 1000.5, float("nan")):
        with pytest.raises(VideoError, match="^--fps must be a number of frames a second above 0, got "):
            open_video(tmp_path, fps)


def test_a_sequence_of_pictures_has_what_a_video_has(tmp_path: Path) -> None:
    for n in (1, 2, 10):
        write_image(tmp_path / f"f{n}.png", np.full((8, 10, 3), n, np.uint8))
    (tmp_path / ".hidden.png").write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("no picture")
    with open_video(tmp_path) as video:
        assert (video.width, video.height, video.count, video.aspect, video.rotation) == (10, 8, 3, 1, 0)
        assert (video.start, video.has_audio, video.sound, video.problem) == (0.0, False, None, None)
        assert [p.name for p in video.files] == ["f1.png", "f2.png", "f10.png"]
        assert [(f.index, int(f.image[0, 0, 0])) for f in video] == [(0, 1), (1, 2), (2, 10)]
        assert video.problem is None
    (tmp_path / "f2.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    write_image(tmp_path / "f3.png", np.full((8, 11, 3), 3, np.uint8))
    with open_video(tmp_path) as video:
        # A picture that is left out leaves its time empty.
        assert [(f.index, f.time) for f in video] == [(0, 0.0), (3, 0.12)]
        assert video.problem is not None and video.problem.startswith("2 of 4 pictures are left out: ")
