"""Videos that play everywhere: H.264, yuv420p, the index in front, the sound of the original."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .reading import VideoError, require_av

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv")

# Sound that browsers play from an MP4 file; every other is encoded anew.
COPIED_AUDIO = ("aac", "mp3", "opus", "flac")

# Of the rates that AAC knows, those in use; any other is resampled to the last.
AAC_RATES = (16_000, 22_050, 24_000, 32_000, 44_100, 48_000)

# Fine enough for every frame rate in use, and what MPEG has always counted in.
TIME_BASE = Fraction(1, 90_000)

# x264's scale of quality, 0 lossless, 51 worst: drawn lines and small text stay sharp.
QUALITY = 18

_BT709 = 1
_LIMITED = 1


class VideoWriter:
    """Writes frames with their times.

    The file grows beside its place under the name ``NAME.partial.SUFFIX``, and takes its place when it is whole. After an error
    or an interruption the partial file stays; it plays as far as it goes.

    ```python
    with VideoWriter("out.mp4", 640, 360, rate=25, sound="in.mp4") as video:
        video.write(image, time)
    ```
    """

    def __init__(
        self,
        path: str | Path,
        width: int,
        height: int,
        rate: float | Fraction,
        sound: str | Path | None = None,
        sound_start: float = 0.0,
    ) -> None:
        """
        Args:
            path: ``.mp4``, ``.m4v``, ``.mov`` or ``.mkv``; missing folders are made.
            width: of the frames in pixels; an odd one is padded by a pixel.
            height: the same.
            rate: average frames a second; each frame has its own time all the same.
            sound: a file whose sound goes along as far as the frames do.
            sound_start: time in that file, in seconds, that is 0 here.

        Raises:
            VideoError: if PyAV is missing, the suffix is another one, or the file cannot be written.
        """
        self._av = require_av()
        self.path = Path(path).expanduser()
        if self.path.suffix.lower() not in SUFFIXES:
            raise VideoError(f"cannot write {self.path}: choose a name that ends in {', '.join(SUFFIXES)}")
        self.partial = self.path.with_name(f"{self.path.stem}.partial{self.path.suffix}")
        self.size = (width, height)
        options = {"movflags": "+faststart"} if self.path.suffix.lower() != ".mkv" else {}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._container: Any = self._av.open(str(self.partial), "w", options=options)
        except OSError as error:
            raise VideoError(f"cannot write {self.path}: {error.strerror}") from error
        self._stream = self._container.add_stream(
            "libx264", rate=Fraction(rate).limit_denominator(100_000), options={"crf": str(QUALITY), "preset": "veryfast"}
        )
        self._stream.width, self._stream.height = width + width % 2, height + height % 2
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        context.time_base = TIME_BASE
        # Untagged colours are guessed from the size of the picture.
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED
        self._sound = None if sound is None else _Sound(self._av, Path(sound), self._container, sound_start)
        self._last = -1
        self._open = True
        self.frames = 0

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
        self._last = max(self._last + 1, round(time / TIME_BASE))
        frame.pts, frame.time_base = self._last, TIME_BASE
        self._mux(self._stream.encode(frame))
        if self._sound is not None:
            self._sound.copy(time)
        self.frames += 1

    def close(self, complete: bool = True) -> Path:
        """Ends the file; a second call does nothing.

        Args:
            complete: whether it takes its place; if not it stays partial.

        Returns:
            Where it is.
        """
        if self._open:
            self._open = False
            try:
                if self.frames:
                    self._mux(self._stream.encode(None))
                    if self._sound is not None:
                        self._sound.finish(float((self._last + 1) * TIME_BASE))
            finally:
                self._container.close()
                if self._sound is not None:
                    self._sound.close()
            if not self.frames:
                self.partial.unlink(missing_ok=True)
            elif complete:
                os.replace(self.partial, self.path)
                self.partial = self.path
        return self.partial

    def _mux(self, packets: Any) -> None:
        try:
            self._container.mux(packets)
        except OSError as error:
            raise VideoError(f"cannot go on writing {self.partial}: {error.strerror}") from error


class _Sound:
    """Copies the first sound track of a file beside the frames, or encodes it as AAC where it cannot be copied."""

    def __init__(self, av: Any, path: Path, output: Any, start: float) -> None:
        self._output, self._start = output, start
        self._input = av.open(str(path), metadata_errors="ignore")
        self._error = av.error.FFmpegError
        self._packets: Any = iter(())
        self._next: Any = None
        self._encode = False
        if not self._input.streams.audio:
            return
        source = self._input.streams.audio[0]
        context = source.codec_context
        self._encode = context.codec.canonical_name not in COPIED_AUDIO
        if self._encode:
            rate = context.sample_rate if context.sample_rate in AAC_RATES else AAC_RATES[-1]
            self._stream = output.add_stream("aac", rate=rate, layout="mono" if context.layout.nb_channels == 1 else "stereo")
        else:
            self._stream = output.add_stream_from_template(source)
        self._packets = self._input.demux(source)
        self._advance()

    def _advance(self) -> None:
        try:
            self._next = next(self._packets, None)
        except self._error:  # a damaged track ends where the damage is
            self._next = None

    def copy(self, until: float) -> None:
        """Everything that begins before a time."""
        while self._next is not None:
            packet = self._next
            if packet.dts is not None and float(packet.dts * packet.time_base) - self._start > until:
                return
            self._write(packet)
            self._advance()

    def _write(self, packet: Any) -> None:
        if not self._encode:
            if packet.dts is None:  # the demuxer's last, empty one
                return
            shift = round(self._start / packet.time_base)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
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
            self._output.mux(self._stream.encode(frame))

    def finish(self, until: float) -> None:
        self.copy(until)
        if self._encode:
            self._output.mux(self._stream.encode(None))

    def close(self) -> None:
        self._input.close()
