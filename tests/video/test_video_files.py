"""Reading and writing: rotations, odd sizes, frame rates that vary, and every kind of broken file."""

from __future__ import annotations

import csv
import json
import resource
import struct
import zlib
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from clips import pattern, read_clip, write_clip
from numpy.typing import NDArray

from ldeq import Face
from ldeq.data import IBUG68
from ldeq.video import encoders
from ldeq.video.encoders import Encoder, choose_encoder
from ldeq.video.landmark_files import CsvLandmarks, JsonLandmarks
from ldeq.video.reading import VideoError, VideoReader
from ldeq.video.writing import VideoWriter


def close(a: NDArray[np.uint8], b: NDArray[np.uint8], levels: float = 6) -> bool:
    return a.shape == b.shape and float(np.abs(a.astype(float) - b).mean()) < levels


def test_frames_come_in_order_with_their_times(tmp_path: Path) -> None:
    frames = [pattern(96, 64, t) for t in range(10)]
    with VideoReader(write_clip(tmp_path / "a.mp4", frames)) as video:
        assert (video.width, video.height, video.count, float(video.rate), video.has_audio) == (96, 64, 10, 25.0, False)
        read = list(video)
    assert [f.index for f in read] == list(range(10))
    np.testing.assert_allclose([f.time for f in read], np.arange(10) / 25, atol=1e-3)
    assert all(close(f.image, g) for f, g in zip(read, frames, strict=True))
    assert video.problem is None


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_rotated_metadata_is_applied(tmp_path: Path, degrees: int) -> None:
    upright = pattern(96, 64)
    # FFmpeg counts counterclockwise: a player turns the stored picture by so much.
    stored = np.ascontiguousarray(np.rot90(upright, -degrees // 90))
    path = write_clip(tmp_path / "a.mp4", [stored] * 3, rotation=degrees)
    with VideoReader(path) as video:
        assert (video.width, video.height, video.rotation) == (96, 64, degrees % 360)
        assert close(next(iter(video)).image, upright)


def test_a_title_in_another_encoding_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "cafXY"
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        container.mux([*stream.encode(av.VideoFrame.from_ndarray(pattern(96, 64), "rgb24")), *stream.encode()])
    content = path.read_bytes()
    assert b"cafXY" in content
    path.write_bytes(content.replace(b"cafXY", "café!".encode("latin-1")))
    with VideoReader(path) as video, VideoWriter(tmp_path / "b.mp4", 96, 64, video.rate, sound=path) as out:
        for frame in video:
            out.write(frame.image, frame.time)
    assert len(read_clip(tmp_path / "b.mp4")) == 1


def test_a_variable_frame_rate_is_kept_from_end_to_end(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.2, 0.25, 0.6, 0.65, 1.0]
    frames = [pattern(96, 64, t) for t in range(7)]
    path = write_clip(tmp_path / "a.mp4", frames, times)
    with VideoReader(path) as video, VideoWriter(tmp_path / "b.mp4", 96, 64, video.rate) as out:
        for frame in video:
            out.write(frame.image, frame.time)
    back = read_clip(tmp_path / "b.mp4")
    np.testing.assert_allclose([t for t, _ in back], times, atol=2e-3)
    assert all(close(image, g, 8) for (_, image), g in zip(back, frames, strict=True))


@pytest.mark.parametrize("width, height", [(97, 65), (96, 65), (97, 64), (1, 1)])
def test_odd_sizes_are_padded_to_even_ones(tmp_path: Path, width: int, height: int) -> None:
    image = pattern(width, height)
    with VideoWriter(tmp_path / "a.mp4", width, height, 25) as out:
        for t in range(3):
            out.write(image, t / 25)
    (_, first), *_ = read_clip(tmp_path / "a.mp4")
    assert first.shape == (height + height % 2, width + width % 2, 3)
    assert close(np.ascontiguousarray(first[:height, :width]), image, 8)


def test_odd_sizes_are_read(tmp_path: Path) -> None:
    with VideoReader(write_clip(tmp_path / "a.mkv", [pattern(97, 65, t) for t in range(3)])) as video:
        assert [f.image.shape for f in video] == [(65, 97, 3)] * 3


def test_what_is_written_plays_in_a_browser(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "new" / "a.mp4", 96, 64, 25) as out:
        for t in range(5):
            out.write(pattern(96, 64, t), t / 25)
            assert out.partial.name == "a.partial.mp4"
            assert not out.path.exists()
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["a.mp4"]
    with av.open(str(out.path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        # Tagged as BT.709 in the limited range: what is not tagged is guessed from the size of the picture.
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
    data = out.path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_a_cover_is_no_film(tmp_path: Path) -> None:
    path = tmp_path / "song.mp3"
    with av.open(str(path), "w") as container:
        tone = container.add_stream("mp3", rate=44_100, layout="mono")
        cover = container.add_stream("mjpeg")
        cover.width, cover.height, cover.pix_fmt = 96, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(pattern(96, 64), format="rgb24").reformat(format="yuvj420p")
        picture.pts = 0
        container.mux([*cover.encode(picture), *cover.encode(None)])
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.float32), format="fltp", layout="mono")
        sound.sample_rate, sound.pts = 44_100, 0
        container.mux([*tone.encode(sound), *tone.encode(None)])
    with pytest.raises(VideoError, match="it holds no film"):
        VideoReader(path)


@pytest.mark.parametrize("rotation, expected", [(0, Fraction(4, 3)), (90, Fraction(3, 4))])
def test_pixels_that_are_not_square_stay_so(tmp_path: Path, rotation: int, expected: Fraction) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        if rotation:
            stream.set_display_rotation(rotation)
        for t in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pattern(96, 64, t), format="rgb24")))
        container.mux(stream.encode(None))
    with VideoReader(tmp_path / "a.mp4") as video:
        assert video.aspect == expected
        with VideoWriter(tmp_path / "b.mp4", video.width, video.height, video.rate, aspect=video.aspect) as out:
            for frame in video:
                out.write(frame.image, frame.time)
    with av.open(str(out.path)) as container:
        assert container.streams.video[0].sample_aspect_ratio == expected


def test_a_machine_that_dies_leaves_a_file_that_plays(tmp_path: Path) -> None:
    out = VideoWriter(tmp_path / "a.mp4", 96, 64, 25)
    noise = np.random.default_rng(0)
    for t in range(100):
        out.write(noise.integers(0, 255, (64, 96, 3)).astype(np.uint8), t / 25)
    dead = tmp_path / "dead.mp4"
    dead.write_bytes(out.partial.read_bytes())  # nothing was closed
    with VideoReader(dead) as video:
        assert sum(1 for _ in video) >= 100 - 25
    out.close()
    data = out.path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    assert b"moof" not in data
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "dead.mp4"]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("room", [12_288, 60_000, 120_000, 500_000])
def test_a_video_that_did_not_fit_on_the_disk_does_not_pass_for_whole(tmp_path: Path, suffix: str, room: int) -> None:
    noise = np.random.default_rng(0)
    frames = [noise.integers(0, 255, (64, 96, 3)).astype(np.uint8) for _ in range(140)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        with (
            pytest.raises(VideoError, match="cannot (go on writing|write the end of)"),
            VideoWriter(tmp_path / f"a{suffix}", 96, 64, 25) as out,
        ):
            for t, frame in enumerate(frames):
                out.write(frame, t / 25)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in tmp_path.iterdir()] == [f"a.partial{suffix}"]


def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    table = JsonLandmarks(tmp_path / "a.json", {})
    table._file.close()
    table._file = open("/dev/full", "w")  # noqa: SIM115
    with pytest.raises(VideoError, match=r"a\.json\.partial: No space left on device; make room"):
        for t in range(20):
            table.write(t, t / 25, faces(t))
    with pytest.raises(VideoError, match="cannot write the end of"):
        table.close(complete=False)


def test_a_run_that_stops_early_leaves_a_partial_file_that_plays(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "in.mp4", [pattern(96, 64, t) for t in range(25)], sound="aac")
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "a.mp4", 96, 64, 25, path) as out:
        for t in range(10):
            out.write(pattern(96, 64, t), t / 25)
        raise KeyboardInterrupt
    assert not (tmp_path / "a.mp4").exists()
    assert len(read_clip(tmp_path / "a.partial.mp4")) == 10
    with av.open(str(tmp_path / "a.partial.mp4")) as container:
        assert sum(f.samples / f.sample_rate for f in container.decode(audio=0)) < 0.6


def test_a_truncated_file_gives_what_comes_before_the_end(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    frames = [noise.integers(0, 255, (64, 96, 3)).astype(np.uint8) for _ in range(40)]
    path = write_clip(tmp_path / "a.mp4", frames, options={"movflags": "+faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with VideoReader(path) as video:
        count = sum(1 for _ in video)
    assert 5 <= count < 35
    assert video.problem is not None
    assert str(path) in video.problem


def test_damage_in_the_middle_is_told_and_does_not_end_the_video(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    frames = [noise.integers(0, 255, (64, 96, 3)).astype(np.uint8) for _ in range(30)]
    path = write_clip(tmp_path / "a.avi", frames, codec="mjpeg")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + len(data) // 5] = bytes(len(data) // 5)
    path.write_bytes(data)
    with VideoReader(path) as video:
        count = sum(1 for _ in video)
    assert 10 <= count <= 30
    assert video.problem is not None or count == 30


@pytest.mark.parametrize(
    ("side", "end", "reason"), [(20_000, None, "it has more than the 110 million pixels"), (40, -20, "the file is truncated")]
)
def test_a_picture_that_cannot_be_a_video_says_why(tmp_path: Path, side: int, end: int | None, reason: str) -> None:
    """FFmpeg decodes no frame of it, and there is no other to get."""
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.zeros((40, 40), np.uint8))
    header = struct.pack(">4sIIBBBBB", b"IHDR", side, side, 8, 0, 0, 0, 0)
    data = path.read_bytes()
    path.write_bytes((data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:])[:end])
    with pytest.raises(VideoError, match=reason):
        VideoReader(path)


@pytest.mark.parametrize("what", ["absent", "empty", "folder", "text", "sound", "no index", "header"])
def test_files_that_are_no_video_are_refused_in_a_sentence(tmp_path: Path, what: str) -> None:
    path = tmp_path / "a.mp4"
    expected = "damaged, incomplete or no video"
    if what == "absent":
        expected = "there is no such file"
    elif what == "empty":
        path.touch()
        expected = "the file is empty"
    elif what == "folder":
        path.mkdir()
        expected = "it is a folder"
    elif what == "text":
        path.write_text("not a video at all\n" * 50)
    elif what == "sound":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=44_100, layout="mono")
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44_100, 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        expected = "it holds no film"
    else:
        write_clip(path, [pattern(96, 64, t) for t in range(10)])
        data = path.read_bytes()
        path.write_bytes(data[: 40 if what == "header" else data.index(b"moov") - 4])
    with pytest.raises(VideoError, match=expected) as caught:
        VideoReader(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_output_is_named(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"choose a name that ends in \.mp4"):
        VideoWriter(tmp_path / "a.gif", 96, 64, 25)
    (tmp_path / "file").touch()
    with pytest.raises(VideoError, match="cannot write"):
        VideoWriter(tmp_path / "file" / "a.mp4", 96, 64, 25)
    out = VideoWriter(tmp_path / "a.mp4", 96, 64, 25)
    with pytest.raises(VideoError, match=r"uint8 of shape \(64, 96, 3\), got uint8 \(64, 64, 3\)"):
        out.write(pattern(64, 64), 0)
    out.close()
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def faces(t: int) -> list[Face]:
    points = np.random.default_rng(t).uniform(0, 200, (68, 2)).astype(np.float32)
    return [
        Face.of(points + 10 * i, np.full(68, 0.5 + i, np.float32), IBUG68, i, "start" if t == 0 else None, i / 4)
        for i in range(2)
    ]


def test_landmarks_survive_json_and_csv(tmp_path: Path) -> None:
    tables = [JsonLandmarks(tmp_path / "a.json", {"model": "m"}), CsvLandmarks(tmp_path / "a.csv", IBUG68)]
    for t in range(3):
        for table in tables:
            table.write(t, 0.04 * t, faces(t) if t != 1 else [])
    for table in tables:
        assert not table.path.exists()
        table.close()
        table.close()
    document = json.loads((tmp_path / "a.json").read_text())
    assert (document["model"], document["complete"]) == ("m", True)
    assert [(f["frame"], f["time"], len(f["faces"])) for f in document["frames"]] == [(0, 0.0, 2), (1, 0.04, 0), (2, 0.08, 2)]
    rows = list(csv.DictReader((tmp_path / "a.csv").open(newline="")))
    heads = [(r["frame"], r["face"], r["reset"]) for r in rows]
    assert heads == [("0", "0", "start"), ("0", "1", "start"), ("2", "0", ""), ("2", "1", "")]
    for row, record, face in zip(rows[2:], document["frames"][2]["faces"], faces(2), strict=True):
        np.testing.assert_allclose(record["points"], face.points, atol=0.006)
        np.testing.assert_allclose(record["box"], face.box, atol=0.006)
        assert (record["id"], record["reset"], record["score"]) == (face.id, None, face.score)
        assert float(row["score"]) == face.score
        read = [[float(row[f"x_{i}"]), float(row[f"y_{i}"])] for i in range(68)]
        np.testing.assert_allclose(read, record["points"])
        assert [float(row[f"std_{i}"]) for i in range(68)] == record["std"]
    stopped = JsonLandmarks(tmp_path / "b.json", {})
    stopped.write(0, 0.0, [])
    stopped.close(complete=False)
    assert json.loads((tmp_path / "b.json").read_text())["complete"] is False
    # A run that fails before its first frame leaves what an earlier one wrote.
    JsonLandmarks(tmp_path / "b.json", {}).close(complete=False)
    assert len(json.loads((tmp_path / "b.json").read_text())["frames"]) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "a.json", "b.json"]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("fps", [3.0, 25.0, 60.0])
@pytest.mark.parametrize("sound", ["none", "short", "late"])
def test_at_most_a_second_of_a_small_film_is_in_memory(tmp_path: Path, suffix: str, fps: float, sound: str) -> None:
    """160 x 120 pixels fill no buffer: what is on disk while the film is written is what kill -9 leaves."""
    tone = None
    if sound != "none":
        times = [0.0, 1.0] if sound == "short" else [0.0, 9.0]
        tone = write_clip(tmp_path / "tone.mkv", [pattern(96, 64)] * 2, times, sound="aac")
    out = VideoWriter(tmp_path / f"a{suffix}", 160, 120, fps, tone, -4.0 if sound == "late" else 0.0)
    count = int(6 * fps)
    for t in range(count):
        out.write(pattern(160, 120, t % 30), t / fps)
        if t >= fps and t % max(1, int(fps / 2)) == 0:
            dead = tmp_path / f"dead{suffix}"
            dead.write_bytes(out.partial.read_bytes())
            assert read_clip(dead)[-1][0] >= t / fps - 1.0
    out.close()
    assert len(read_clip(out.path)) == count


def test_without_x264_another_encoder_writes_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without = tuple(e for e in encoders.ENCODERS if not e.name.startswith("h264") and e.name != "libx264")
    monkeypatch.setattr(encoders, "ENCODERS", (Encoder("x264_that_is_not_there"), Encoder("h264_nvenc"), *without))
    for suffix in (".mp4", ".mov", ".mkv"):
        with VideoWriter(tmp_path / f"a{suffix}", 97, 65, 25) as out:
            for t in range(12):
                out.write(pattern(97, 65, t), t / 25)
        assert out.problem is not None and "has no H.264" in out.problem
        frames = read_clip(out.path)
        assert len(frames) == 12
        assert frames[-1][0] == pytest.approx(11 / 25, abs=0.01)
        assert close(np.ascontiguousarray(frames[5][1][:65, :97]), pattern(97, 65, 5), 10)


def test_without_any_encoder_there_is_a_sentence_and_no_empty_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "ENCODERS", (Encoder("x264_that_is_not_there"), Encoder("h264_nvenc")))
    with pytest.raises(VideoError, match=r"no encoder of this FFmpeg writes 96 x 64 pixels to \.mp4 files.*pip install av"):
        VideoWriter(tmp_path / "a.mp4", 96, 64, 25)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(VideoError, match="no encoder"):
        choose_encoder(av, ".mp4", 96, 64, Fraction(25))


def test_a_picture_in_four_seconds_is_a_frame_rate(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", 96, 64, 0.25) as out:
        for t in range(3):
            out.write(pattern(96, 64, t), t * 4.0)
    assert [time for time, _ in read_clip(out.path)] == pytest.approx([0, 4, 8], abs=0.01)


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_a_frame_rate_that_is_none_leaves_no_file(tmp_path: Path, rate: float) -> None:
    with pytest.raises(VideoError, match="positive number of frames a second"):
        VideoWriter(tmp_path / "a.mp4", 96, 64, rate)
    assert list(tmp_path.iterdir()) == []


def test_flipped_bits_that_the_decoder_conceals_are_told(tmp_path: Path) -> None:
    noise = np.random.default_rng(0)
    base = noise.integers(0, 255, (64, 96, 3)).astype(np.uint8)
    path = write_clip(tmp_path / "a.mp4", [np.roll(base, t, 1) for t in range(40)])
    data = bytearray(path.read_bytes())
    begin = data.index(b"mdat") + 3000
    for i in range(begin, min(begin + 40_000, len(data) - 4000), 900):
        data[i] ^= 0x55
    path.write_bytes(data)
    with VideoReader(path) as video:
        count = sum(1 for _ in video)
    with av.open(str(path)) as container:
        marked = 0
        for packet in container.demux(video=0):
            try:
                marked += sum(frame.is_corrupt for frame in packet.decode())
            except av.error.FFmpegError:
                marked += 1
    assert marked
    assert count
    assert video.problem is not None and "is damaged" in video.problem


def test_up_to_a_fiftieth_of_the_frames_may_be_missing_without_a_word(tmp_path: Path) -> None:
    """Containers count frames that no decoder shows; a real loss is larger."""
    path = write_clip(tmp_path / "a.mkv", [pattern(32, 32, t) for t in range(20)])
    for counted, told in ((22, False), (23, True), (1000, True)):
        with VideoReader(path) as video:
            video.count = counted
            assert sum(1 for _ in video) == 20
        assert (video.problem is not None) == told, counted
        if told:
            assert f"20 of its {counted} frames could be read" in str(video.problem)
    path = write_clip(tmp_path / "b.mkv", [pattern(32, 32, t) for t in range(147)])
    for counted, told in ((150, False), (151, True)):
        with VideoReader(path) as video:
            video.count = counted
            assert sum(1 for _ in video) == 147
        assert (video.problem is not None) == told, counted


def test_a_film_that_changes_its_size_on_the_way_keeps_that_of_its_first_frame(tmp_path: Path) -> None:
    films = [
        write_clip(tmp_path / f"{w}.mkv", [pattern(w, h, t) for t in range(3)], codec="mjpeg") for w, h in ((96, 64), (48, 32))
    ]
    packets = []
    for film in films:
        with av.open(str(film)) as container:
            packets += [bytes(p) for p in container.demux(video=0) if p.size]
    (tmp_path / "a.mjpeg").write_bytes(b"".join(packets))
    frames = [frame.image for frame in VideoReader(tmp_path / "a.mjpeg")]
    assert [f.shape for f in frames] == [(64, 96, 3)] * 6
    assert close(frames[2], pattern(96, 64, 2), 12)
