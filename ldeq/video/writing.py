"""Videos that play everywhere: H.264, yuv420p, the index in front, the sound of the original."""

from __future__ import annotations

import errno
import math
import os
import shutil
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.containers import open_container
from ..files import followed, is_special, user_path
from .encoders import choose_encoder
from .reading import VideoError, open_input, require_av

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv")

# Sound that goes along as it is, by the file that it goes into; every other is encoded anew.
COPIED_AUDIO = {
    ".mp4": ("aac", "mp3", "opus", "flac"),
    ".m4v": ("aac",),
    ".mov": ("aac", "mp3"),
    ".mkv": ("aac", "mp3", "opus", "flac", "vorbis", "ac3"),
}

# Of the rates that AAC knows, those in use; any other is resampled to the last.
AAC_RATES = (16_000, 22_050, 24_000, 32_000, 44_100, 48_000)

# A file in fragments plays as far as it goes, whatever ends it: a full disk, a lost machine, kill -9. What is in memory then is
# lost: a fragment, and what the encoder holds back. Units are FFmpeg's: microseconds, and milliseconds for Matroska's clusters.
FRAGMENT = 0.3
FLUSHED = {
    "flush_packets": "1",
    # A track of sound that ends early, or begins late, must not hold the pictures back either.
    "max_interleave_delta": str(round(1e6 * FRAGMENT)),
}
# The head of an MP4 file waits for the first packet of each track, so that it can say when each begins; it cannot wait for a
# sound that begins late. Then it is written at once, and pictures must come in the order in which they are shown.
MP4_HEAD = "+delay_moov"
MP4_HEAD_AT_ONCE = "+empty_moov"
FRAGMENTED_MP4 = {**FLUSHED, "frag_duration": str(round(1e6 * FRAGMENT))}
FRAGMENTED_MKV = {**FLUSHED, "cluster_time_limit": str(round(1e3 * FRAGMENT))}

_BT709 = 1
_LIMITED = 1


class VideoWriter:
    """Writes frames with their times.

    The file grows beside its place under the name ``NAME.partial.SUFFIX``, and takes its place when it is whole. After an
    error, an interruption or on a full disk the partial file stays; it plays as far as it goes.

    ```python
    with VideoWriter("out.mp4", 640, 360, rate=25, sound="in.mp4") as video:
        video.write(image, time)
    ```

    Attributes:
        path: where the file shall be.
        partial: where it is until then.
        frames: written so far.
        problem: why the sound is not whole, or the pictures are not H.264, in a sentence; None if all is well.
    """

    def __init__(
        self,
        path: str | Path,
        width: int,
        height: int,
        rate: float | Fraction,
        sound: str | Path | None = None,
        sound_start: float = 0.0,
        aspect: Fraction = Fraction(1),
    ) -> None:
        """
        Args:
            path: ``.mp4``, ``.m4v``, ``.mov`` or ``.mkv``; missing folders are made.
            width: of the frames in pixels; an odd one is padded by a pixel.
            height: the same.
            rate: average frames a second; each frame has its own time all the same.
            sound: a file whose sound goes along as far as the frames do.
            sound_start: time in that file, in seconds, that is 0 here.
            aspect: width of a pixel over its height.

        Raises:
            VideoError: if PyAV is missing, the suffix is another one, the rate is none, or the file cannot be written.
        """
        if not (math.isfinite(rate) and rate > 0):
            raise VideoError(f"a video needs a positive number of frames a second, got {rate}")
        self._av = require_av()
        self.path = checked_path(path)
        self.partial = partial_path(self.path)
        self.size = (width, height)
        suffix = self.path.suffix.lower()
        self._rate = Fraction(rate).limit_denominator(100_000)
        even = width + width % 2, height + height % 2
        self._encoder = choose_encoder(self._av, suffix, *even, self._rate)  # before there is a file
        self._errors = (OSError, self._av.error.FFmpegError)
        try:
            self.partial.parent.mkdir(parents=True, exist_ok=True)
            self.partial.open("wb").close()  # FFmpeg opens its file with the first frame: too late to say that it cannot
            self._sound = None if sound is None else _Sound(self._av, Path(sound), sound_start, COPIED_AUDIO[suffix])
            late = self._sound is not None and self._sound.begins > FRAGMENT
            head = {"movflags": MP4_HEAD_AT_ONCE if late else MP4_HEAD}
            options = FRAGMENTED_MKV if suffix == ".mkv" else {**FRAGMENTED_MP4, **head}
            self._container: Any = self._av.open(str(self.partial), "w", options=options)
        except self._errors as error:
            raise VideoError(f"cannot write {self.path}: {reason(error)}; choose another place") from error
        self._stream = self._container.add_stream(self._encoder.name, rate=self._rate)
        context = self._stream.codec_context
        self._encoder.configure(context, *even, self._rate, reorder=not late)
        # Untagged colours are guessed from the size of the picture.
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED
        if aspect != 1:
            context.sample_aspect_ratio = aspect
        if self._sound is not None:
            self._sound.attach(self._container)
        self._last = -1
        self._open = True
        self.frames = 0

    @property
    def problem(self) -> str | None:
        if self._encoder.plays is not None:
            return f"{self.path} is encoded by {self._encoder.name}, for this FFmpeg has no H.264: {self._encoder.plays}"
        return None if self._sound is None else self._sound.problem

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close(complete=kind is None)

    def write(self, image: NDArray[np.uint8], time: float) -> None:
        """Appends a frame.

        Args:
            image: `(height, width, 3)` RGB uint8.
            time: when it is shown, in seconds; later than the last one.

        Raises:
            VideoError: for a frame of another size, or when the disk is full.
        """
        if image.shape != (self.size[1], self.size[0], 3) or image.dtype != np.uint8:
            raise VideoError(
                f"a frame must be uint8 of shape {(self.size[1], self.size[0], 3)}, got {image.dtype} {image.shape}"
            )
        if self.size[0] % 2 or self.size[1] % 2:
            image = np.pad(image, ((0, self.size[1] % 2), (0, self.size[0] % 2), (0, 0)), mode="edge")
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        time_base = self._encoder.time_base
        self._last = max(self._last + 1, round(time / time_base))
        frame.pts, frame.time_base = self._last, time_base
        try:
            self._container.mux(self._stream.encode(frame))
            if self._sound is not None:
                self._sound.copy(time)
        except self._errors as error:
            raise VideoError(
                f"cannot go on writing {self.partial}: {reason(error)}; make room or choose another place"
            ) from error
        self.frames += 1

    def close(self, complete: bool = True) -> Path:
        """Ends the file; a second call does nothing.

        Args:
            complete: whether it takes its place; if not it stays partial.

        Returns:
            Where it is.

        Raises:
            VideoError: if the end cannot be written; the partial file stays.
        """
        if self._open:
            self._open = False
            try:
                try:
                    if self.frames:
                        self._container.mux(self._stream.encode(None))
                        if self._sound is not None:
                            self._sound.copy(float(self._last * self._encoder.time_base + 1 / self._rate))
                            self._sound.finish()
                finally:
                    if self._sound is not None:
                        self._sound.close()
                    self._container.close()
                if self.frames and complete:
                    try:
                        self._put_in_place()
                    except EOFError as error:  # there was no room for the first fragment, so that nothing can be read back
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            except self._errors as error:
                raise VideoError(
                    f"cannot write the end of {self.path}: {reason(error)}; {self.partial} plays as far as it goes"
                ) from error
            finally:
                if not self.frames:
                    self.partial.unlink(missing_ok=True)
        return self.partial

    def _put_in_place(self) -> None:
        """Makes one piece of the fragments, the index in front: players then know the length, and seek, at once."""
        if self.path.suffix.lower() == ".mkv":
            self._check(self.partial)
        else:
            whole = self.partial.with_name(f"{self.partial.stem}.whole{self.partial.suffix}")
            # FFmpeg keeps a file open whose index it could not move: the room of it is lost until the process ends.
            if shutil.disk_usage(whole.parent).free < self.partial.stat().st_size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            try:
                _in_one_piece(self._av, self.partial, whole)
                self._check(whole)
                os.replace(whole, self.partial)
            finally:
                whole.unlink(missing_ok=True)
        os.replace(self.partial, followed(self.path))
        self.partial = self.path

    def _check(self, path: Path) -> None:
        """Reads the file back: FFmpeg tells nobody that the last fragment found no room."""
        with open_container(self._av, path) as container:
            packets = container.demux(container.streams.video[0])
            there = sum(packet.size > 0 and not packet.is_corrupt for packet in packets)
        if there != self.frames:
            raise OSError(errno.ENOSPC, f"{there} of {self.frames} frames are in it; is the disk full?")


def checked_path(path: str | Path) -> Path:
    """The path of a video to be written.

    Raises:
        VideoError: if its suffix is none that can be written, or it is a folder.
    """
    path = user_path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise VideoError(f"cannot write {path}: choose a name that ends in {', '.join(SUFFIXES)}")
    if path.is_dir():
        raise VideoError(f"cannot write {path}: it is a folder; give the name of a file")
    if is_special(path):
        raise VideoError(f"cannot write {path}: it is no plain file, and a video needs one; choose another name")
    return path


def partial_path(path: Path) -> Path:
    """Where a video is until it is whole: beside the file that a link leads to, under the suffix that names the format."""
    target = followed(path)
    return target.with_name(f"{target.stem}.partial{path.suffix}")


def reason(error: Exception) -> str:
    """What the system says, without its number and the name of the file."""
    return getattr(error, "strerror", None) or str(error)


def _in_one_piece(av: Any, source: Path, target: Path) -> None:
    with open_container(av, source) as given, av.open(str(target), "w", options={"movflags": "+faststart"}) as made:
        streams = {stream.index: made.add_stream_from_template(stream) for stream in given.streams}
        for packet in given.demux():
            if packet.dts is not None:  # the demuxer's last, empty ones
                packet.stream = streams[packet.stream.index]
                made.mux(packet)


class _Sound:
    """Copies the first sound track of a file beside the frames, or encodes it as AAC where it cannot be copied.

    `problem` says why the track is missing or ends early; pictures are worth more than their sound, so nothing raises for it.
    """

    def __init__(self, av: Any, path: Path, start: float, copied: tuple[str, ...]) -> None:
        self._start = start
        self._source: Any = None
        self._input = open_input(av, path)
        self._error = av.error.FFmpegError
        self._packets: Any = iter(())
        self._next: Any = None
        self._encode = False
        self.problem: str | None = None
        if not self._input.streams.audio:
            return
        source = self._input.streams.audio[0]
        context = source.codec_context
        if context is None:
            self.problem = f"the sound of {path} is left out: this FFmpeg does not know its codec"
            return
        self._encode = context.codec.canonical_name not in copied
        self._source = source
        self._packets = self._input.demux(source)
        self._advance()

    @property
    def begins(self) -> float:
        """Seconds after the first picture at which the sound begins; 0 without sound."""
        if self._next is None or self._next.dts is None:
            return 0.0
        return float(self._next.dts * self._next.time_base) - self._start

    def attach(self, output: Any) -> None:
        """Adds the track to a file, which must not have been written to."""
        if self._source is None:
            return
        self._output, context = output, self._source.codec_context
        if self._encode:
            rate = context.sample_rate if context.sample_rate in AAC_RATES else AAC_RATES[-1]
            self._stream = output.add_stream("aac", rate=rate, layout="mono" if context.layout.nb_channels == 1 else "stereo")
        else:
            self._stream = output.add_stream_from_template(self._source)

    def _advance(self) -> None:
        try:
            self._next = next(self._packets, None)
        except self._error as error:  # a damaged track ends where the damage is
            self._next = None
            self.problem = f"the sound ends early: it is damaged ({reason(error)})"

    def copy(self, until: float) -> None:
        """Everything that begins before a time."""
        while self._next is not None:
            packet = self._next
            if packet.dts is not None and float(packet.dts * packet.time_base) - self._start >= until:
                return
            self._write(packet)
            self._advance()

    def _write(self, packet: Any) -> None:
        if not self._encode:
            if packet.dts is None:  # the demuxer's last, empty one
                return
            shift = round(self._start / packet.time_base)
            packet.pts, packet.dts = (packet.dts if packet.pts is None else packet.pts) - shift, packet.dts - shift
            packet.stream = self._stream
            self._output.mux(packet)
            return
        try:
            frames = packet.decode()
        except self._error:
            return
        for frame in frames:
            if frame.pts is not None:
                frame.pts -= round(self._start / frame.time_base)
            try:
                sound = self._stream.encode(frame)
            except ValueError as error:  # a track that changes its format on the way
                self.problem = f"the sound ends early: it cannot be encoded ({reason(error)})"
                self._packets = iter(())
                return
            self._output.mux(sound)

    def finish(self) -> None:
        """Whatever the encoder still holds."""
        if self._encode:
            self._output.mux(self._stream.encode(None))

    def close(self) -> None:
        self._input.close()
