"""Videos as users name them: files, addresses, folders and numbered files of pictures."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

from ..data import ImageError, read_image
from ..files import user_path
from .reading import DEFAULT_RATE, VideoError, VideoFrame, VideoReader

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
"""Suffixes of the pictures that are taken from a folder."""

ADDRESSES = ("http", "https", "rtsp", "rtsps", "rtmp", "rtmps", "srt", "udp", "rtp")
"""What FFmpeg is asked to read over the network."""

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_NUMBERED = re.compile(r"%(0?)(\d*)d")


def open_video(name: str | Path, fps: float | None = None) -> VideoReader | PictureSequence:
    """Opens whatever holds frames.

    Args:
        name: a video file; an address such as ``rtsp://camera/live`` or ``https://...``; pictures: a folder of them, a pattern
            such as ``frames/*.png``, or numbered ones, ``frames/%04d.png``.
        fps: frames a second of pictures, 25 if None; a file and an address have their own.

    Raises:
        VideoError: if it cannot be read, or is of another kind: the sentence says what reads it.
    """
    text = str(name)
    if fps is not None and not 0 < fps <= 1000:
        raise VideoError(f"--fps must be a number of frames a second above 0, got {fps}")
    address = _ADDRESS.match(text)
    if address:
        if address[1].lower() not in ADDRESSES:
            raise VideoError(f"{text} is no address of a video; use one of {', '.join(ADDRESSES)}, or the name of a file")
        return VideoReader(text, address=True, shown=without_password(text))
    if text == "-":
        raise VideoError("a video cannot be read from the standard input; save it as a file, and give its name")
    path = user_path(text)
    if not path.exists() and (text.isdecimal() or text.startswith("/dev/video")):
        raise VideoError(f"{text} is no file; for a camera: ldeq webcam --camera {re.sub('[^0-9]', '', text) or 0}")
    if path.is_char_device():
        number = re.sub("[^0-9]", "", path.name) or "0"
        raise VideoError(f"{text} is a device; for a camera: ldeq webcam --camera {number}")
    pictures = find_pictures(path)
    if pictures is not None:
        return PictureSequence(pictures, text, DEFAULT_RATE if fps is None else Fraction(fps).limit_denominator(1000))
    return VideoReader(path)


def find_pictures(path: Path) -> list[Path] | None:
    """The pictures that a folder, a pattern or a numbered name stands for, in their order; None for any other path.

    Raises:
        VideoError: if there is none.
    """
    if path.is_dir():
        found = [p for p in path.iterdir() if p.suffix.lower() in PICTURES and not p.name.startswith(".")]
        return _in_order(found, f"the folder {path} holds no picture; give a video, or a folder of {', '.join(PICTURES)} files")
    if path.exists():
        return None
    if len(_NUMBERED.findall(path.name)) == 1:
        before, after = _NUMBERED.split(path.name)[0], _NUMBERED.split(path.name)[-1]
        named = re.compile(re.escape(before) + r"\d+" + re.escape(after))
        found = [p for p in path.parent.glob("*") if named.fullmatch(p.name)]
        return _in_order(found, f"there is no picture {path}; check the folder and the name")
    if glob.has_magic(str(path)):
        found = [Path(p) for p in glob.glob(str(path))]
        return _in_order([p for p in found if p.is_file()], f"no file matches {path}; check the pattern")
    if path.suffix.lower() in PICTURES:
        raise VideoError(f"there is no picture {path}; for several give a folder, a pattern, or a name such as frames/%04d.png")
    return None


def without_password(address: str) -> str:
    """An address as it may be shown and written into files."""
    parts = urlsplit(address)
    return address.replace(f":{parts.password}@", ":...@", 1) if parts.password else address


def _in_order(found: Sequence[Path], sentence: str) -> list[Path]:
    """By the numbers in their names, as a person would: frame 2 before frame 10."""
    if not found:
        raise VideoError(sentence)
    return sorted(found, key=lambda p: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", p.name)])


class PictureSequence:
    """Pictures as the frames of a video, with what a `VideoReader` has.

    A picture that cannot be read, or has another size than the first, is left out; `problem` then says so.
    """

    def __init__(self, pictures: Sequence[Path], name: str, rate: Fraction = DEFAULT_RATE) -> None:
        """
        Args:
            pictures: files, in their order.
            name: what to call them.
            rate: frames a second.

        Raises:
            VideoError: if the first one cannot be read.
        """
        self.pictures, self.shown, self.rate = list(pictures), name, rate
        try:
            first = read_image(self.pictures[0], exif=True)
        except ImageError as error:
            raise VideoError(str(error)) from error
        self.height, self.width = first.shape[:2]
        self.count: int | None = len(self.pictures)
        self.aspect, self.rotation, self.start, self.has_audio = Fraction(1), 0, 0.0, False
        self.sound: Path | None = None
        self.problem: str | None = None

    @property
    def files(self) -> list[Path]:
        """Everything that is read, and must not be written over."""
        return self.pictures

    def __enter__(self) -> PictureSequence:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def __iter__(self) -> Iterator[VideoFrame]:
        left_out: list[str] = []
        for index, path in enumerate(self.pictures):
            try:
                image = read_image(path, exif=True)
            except ImageError as error:
                left_out.append(str(error))
                continue
            if image.shape != (self.height, self.width, 3):
                left_out.append(f"{path} has {image.shape[1]} x {image.shape[0]} pixels, not {self.width} x {self.height}")
                continue
            yield VideoFrame(index, float(index / self.rate), image)
        if left_out:
            self.problem = f"{len(left_out)} of {self.count} pictures are left out: {left_out[0]}"


# What a camera's driver says when it does not know is -1, 0, NaN, or the unit of its clock.
CAMERA_RATES = (1.0, 480.0)
UNKNOWN_CAMERA_RATE = 30.0


def camera_rate(reported: float) -> tuple[float, str | None]:
    """Frames a second of a camera that reports so many, and a sentence if they cannot be."""
    low, high = CAMERA_RATES
    if low <= reported <= high:
        return reported, None
    return UNKNOWN_CAMERA_RATE, (
        f"the camera reports {reported:g} frames a second, which cannot be; {UNKNOWN_CAMERA_RATE:.0f} are assumed"
    )
