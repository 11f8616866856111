"""The sound of a video goes along: copied, encoded anew or left out with a word."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from clips import pattern, read_clip, write_clip

from ldeq.video.reading import VideoReader
from ldeq.video.writing import VideoWriter


@pytest.mark.parametrize("codec, suffix, expected", [("aac", "mp4", "aac"), ("mp3", "mp4", "mp3"), ("pcm_s16le", "mkv", "aac")])
def test_the_sound_goes_along(tmp_path: Path, codec: str, suffix: str, expected: str) -> None:
    frames = [pattern(96, 64, t) for t in range(25)]
    path = write_clip(tmp_path / f"a.{suffix}", frames, sound=codec)
    with VideoReader(path) as video, VideoWriter(tmp_path / "b.mp4", 96, 64, video.rate, path, video.start) as out:
        assert video.has_audio
        for frame in video:
            out.write(frame.image, frame.time)
    levels, rate = [], 0
    with av.open(str(tmp_path / "b.mp4")) as container:
        (stream,) = container.streams.audio
        assert stream.codec_context.codec.canonical_name == expected
        for sound in container.decode(audio=0):
            rate = sound.sample_rate
            levels.append(sound.to_ndarray().ravel().astype(np.float64))
    samples = np.concatenate(levels)
    assert len(samples) / rate == pytest.approx(1.0, abs=0.12)
    # The tone: 0.06 rad a sample at 44.1 kHz.
    spectrum = np.abs(np.fft.rfft(samples))
    assert np.argmax(spectrum) * rate / len(samples) == pytest.approx(0.06 * 44_100 / (2 * np.pi), rel=0.02)


@pytest.mark.parametrize("suffix", [".m4v", ".mov", ".mkv"])
@pytest.mark.parametrize("codec", ["mp3", "flac"])
def test_sound_that_a_kind_of_file_does_not_take_is_encoded_anew(tmp_path: Path, codec: str, suffix: str) -> None:
    path = write_clip(tmp_path / "a.mkv", [pattern(96, 64, t) for t in range(10)], sound=codec)
    with VideoWriter(tmp_path / f"b{suffix}", 96, 64, 25, path) as out:
        for t in range(10):
            out.write(pattern(96, 64, t), t / 25)
    with av.open(str(out.path)) as container:
        seconds = sum(f.samples / f.sample_rate for f in container.decode(audio=0))
    # As long as the pictures, the last one's time on the screen included.
    assert seconds == pytest.approx(0.4, abs=0.06)


@pytest.mark.parametrize(("codec", "suffix"), [("aac", ".mp4"), ("flac", ".mov")], ids=["copied", "encoded"])
def test_sound_that_begins_after_the_pictures_keeps_its_distance(tmp_path: Path, codec: str, suffix: str) -> None:
    path = write_clip(tmp_path / "a.mkv", [pattern(96, 64, t) for t in range(25)], sound=codec)
    with VideoWriter(tmp_path / f"b{suffix}", 96, 64, 25, path, -0.5) as out:
        for t in range(50):
            out.write(pattern(96, 64, t), t / 25)
    with av.open(str(out.path)) as container:
        heard = [(float(f.time), np.abs(f.to_ndarray()).max()) for f in container.decode(audio=0) if f.time is not None]
    loud = max(level for _, level in heard)
    assert next(time for time, level in heard if level > loud / 3) == pytest.approx(0.5, abs=0.06)


def test_sound_that_nobody_can_decode_is_left_out_and_told(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mkv", [pattern(96, 64, t) for t in range(5)], sound="pcm_s16le")
    path.write_bytes(path.read_bytes().replace(b"A_PCM/INT/LIT", b"A_XYZ/INT/LIT"))
    with VideoReader(path) as video, VideoWriter(tmp_path / "b.mp4", 96, 64, video.rate, path) as out:
        for frame in video:
            out.write(frame.image, frame.time)
    assert out.problem is not None
    assert "does not know its codec" in out.problem
    assert len(read_clip(tmp_path / "b.mp4")) == 5
