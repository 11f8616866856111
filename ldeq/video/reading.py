"""Video files as upright RGB frames with their times, whatever PyAV can decode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..brief import brief_repr
from ..data import ImageError, read_image
from ..data.containers import open_container
from ..errors import LdeqError
from ..files import user_path

# Edit lists hide a few of the frames that a file declares; more than this share of them missing is damage.
MISSING_SHARE = 0.02
MISSING_FRAMES = 2

DEFAULT_RATE = Fraction(25)

# Files without a frame rate may declare the unit of their clock instead: 1,000 or 90,000.
FASTEST = 500

# Seconds after which a silent server is given up.
SILENCE = 15.0


class VideoError(LdeqError, ValueError):
    """A video that cannot be read or written; the message says what to do."""


def require_av() -> ModuleType:
    """PyAV.

    Raises:
        VideoError: if it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise VideoError('videos need PyAV, which is not installed: pip install "ldeq[video]"') from error
    return av


def open_input(av: Any, path: str | Path, address: bool = False) -> Any:
    """A PyAV container to read from, whatever the encoding of the titles in it.

    Args:
        av: PyAV.
        path: a file, or an address.
        address: whether it is one. A server that is silent for `SILENCE` seconds then ends the reading.

    Raises:
        av.error.FFmpegError: if FFmpeg cannot open it.
    """
    if not address:
        return open_container(av, path)
    # Pictures over UDP arrive torn wherever a packet is lost.
    tcp = {"rtsp_transport": "tcp"} if str(path).lower().startswith("rtsp") else {}
    return open_container(av, path, options=tcp, timeout=SILENCE)


@dataclass(frozen=True)
class VideoFrame:
    """One frame.

    Attributes:
        index: from 0.
        time: seconds since the start of the file, strictly increasing.
        image: `(H, W, 3)` RGB uint8, upright.
    """

    index: int
    time: float
    image: NDArray[np.uint8]

    __repr__ = brief_repr


class VideoReader:
    """Frames of a video file, in order.

    ```python
    with VideoReader("in.mp4") as video:
        for frame in video:
            frame.image, frame.time
        video.problem           # what was wrong with the file, or None
    ```

    The rotation in the file's metadata is applied, and frames keep their own times, so that a variable frame rate survives.
    A file that stops in the middle gives what comes before it; `problem` then says so.

    Attributes:
        path: the file; None for an address.
        shown: what to call it.
        files: everything that is read from disk, and must not be written over.
        sound: the file whose sound goes along, or None.
        width: of an upright frame in pixels.
        height: the same.
        rate: average frames a second, the declared one.
        count: frames that the file declares, or None where it does not say.
        aspect: width of a pixel over its height, of an upright frame; frames are as they are stored.
        rotation: degrees that a stored frame is turned counterclockwise to be upright: 0, 90, 180, 270.
        has_audio: whether there is sound.
        problem: what was wrong, in a sentence, known once the frames have been read; None if nothing was.
    """

    def __init__(self, path: str | Path, *, address: bool = False, shown: str | None = None) -> None:
        """
        Args:
            path: the file, or an address.
            address: whether it is read over the network.
            shown: what to call it in sentences; the path if None.

        Raises:
            VideoError: if PyAV or the file is missing, or the file holds no frame that can be decoded.
        """
        self._av = require_av()
        self.path = None if address else user_path(path)
        self.shown = shown or str(path if self.path is None else self.path)
        self.sound = self.path
        self.files = [] if self.path is None else [self.path]
        if self.path is not None:
            self._check_file(self.path)
        try:
            self._container: Any = open_input(self._av, path if self.path is None else self.path, address)
        except (self._av.error.FFmpegError, OSError) as error:
            why = "it is damaged, incomplete or no video ({}); get it anew"
            if address:
                why = "{}; check the address and the network"
            raise VideoError(f"cannot read the video {self.shown}: {why.format(error.strerror)}") from error
        cover = self._av.stream.Disposition.attached_pic
        films = [s for s in self._container.streams.video if not s.disposition & cover and s.codec_context is not None]
        if not films:
            self._container.close()
            raise VideoError(f"cannot read the video {self.shown}: it holds no film, only sound, a cover or data")
        self._stream = films[0]
        self._stream.thread_type = "AUTO"
        self.has_audio = bool(self._container.streams.audio)
        rates = (self._stream.average_rate, self._stream.guessed_rate)
        self.rate = next((Fraction(rate) for rate in rates if rate and 0 < rate <= FASTEST), DEFAULT_RATE)
        self.count: int | None = self._stream.frames or None
        self.start = (self._container.start_time or 0) / self._av.time_base
        self.problem: str | None = None
        self._damaged = self._corrupt = 0
        self._decoded = self._decode()
        self._next: Any = next(self._decoded, None)
        if self._next is None:
            reason = self.problem or self._picture_fault() or "none of its frames can be decoded; get it anew"
            self._container.close()
            raise VideoError(f"cannot read the video {self.shown}: {reason}")
        self.rotation = round(self._next.rotation / 90) * 90 % 360
        self._size = (self._next.width, self._next.height)
        upright = self.rotation % 180 == 0
        self.width, self.height = self._size if upright else self._size[::-1]
        aspect = Fraction(self._stream.sample_aspect_ratio or 1)
        self.aspect = aspect if upright else 1 / aspect

    def _check_file(self, path: Path) -> None:
        if not path.is_file():
            what = "it is a folder" if path.is_dir() else "there is no such file"
            raise VideoError(f"cannot read the video {path}: {what}")
        if path.stat().st_size == 0:
            raise VideoError(f"cannot read the video {path}: the file is empty")

    def _picture_fault(self) -> str | None:
        """What is wrong with a file that is no film but a picture, which FFmpeg does not say."""
        if self.path is None or not self._container.format.name.endswith(("_pipe", "image2")):
            return None
        try:
            read_image(self.path)
        except ImageError as error:
            return error.reason
        return None

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[VideoFrame]:
        index, last = 0, -float("inf")
        while self._next is not None:
            frame, self._next = self._next, None
            time = float("-inf") if frame.time is None else frame.time - self.start
            if not time > last:  # without a time, or a second time the same one
                time = last + float(1 / self.rate) if index else 0.0
            last = time
            yield VideoFrame(index, time, self._picture(frame))
            index += 1
            self._next = next(self._decoded, None)
        if self.problem is None and self.count is not None:
            missing = self.count - index
            if missing > max(MISSING_FRAMES, MISSING_SHARE * self.count):
                self.problem = f"{self.shown} is incomplete: {index} of its {self.count} frames could be read"
        if self.problem is None and self._damaged:
            self.problem = f"{self.shown} is damaged: {self._damaged} of its packets could not be decoded"
        if self.problem is None and self._corrupt:
            self.problem = f"{self.shown} is damaged: the decoder marks {self._corrupt} of its {index} frames as corrupt"

    def _picture(self, frame: Any) -> NDArray[np.uint8]:
        if (frame.width, frame.height) != self._size:  # some files change their size on the way
            frame = frame.reformat(width=self._size[0], height=self._size[1], format="rgb24")
        image = frame.to_ndarray(format="rgb24")
        return np.ascontiguousarray(np.rot90(image, self.rotation // 90)) if self.rotation else image

    def _decode(self) -> Iterator[Any]:
        packets = self._container.demux(self._stream)
        count = 0
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except self._av.error.FFmpegError as error:
                self.problem = f"{self.shown} cannot be read beyond frame {count} ({error.strerror})"
                return
            try:
                frames = packet.decode()
            except self._av.error.FFmpegError:
                # One bad packet need not be the end: decoders pick up at the next key frame.
                self._damaged += 1
                continue
            for frame in frames:
                count += 1
                # Decoders conceal damage: the frame looks whole, and its faces are where they were.
                self._corrupt += bool(frame.is_corrupt)
                yield frame
