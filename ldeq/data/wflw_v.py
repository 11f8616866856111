"""WFLW-V: videos with a box and 98 landmarks in every frame (Micaelli et al., CVPR 2023), and made clips of that layout.

``videos/<id>.mp4``, ``bboxes/<id>.npy`` (T, >= 4: x1 y1 x2 y2, then anything) and ``landmarks/<id>.npy`` (T, K, 2), both in
pixels of the frames. ``easy.txt`` and ``hard.txt`` list the ids of the two halves, one a line.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldeq.brief import brief_repr
from ldeq.data.containers import open_container
from ldeq.data.errors import DataError, ImageError, LabelError
from ldeq.data.labels import FARTHEST_PIXEL, label_fault, sound
from ldeq.data.layouts import LAYOUTS, Layout
from ldeq.data.paths import inside, some_of
from ldeq.data.records import FaceRecord, none_left
from ldeq.data.text import read_lines
from ldeq.files import followed, saved_bytes, temporary_path, user_path, write_atomically
from ldeq.spelling import did_you_mean

# Bytes of the labels of one video; those of an hour at 30 frames a second take 170 million.
_LARGEST_ARRAY = 1 << 28

SPLITS_WFLW_V: tuple[str, ...] = ("easy", "hard", "all")


@dataclass(frozen=True, eq=False)
class VideoRecord:
    """One labelled video of one face.

    Attributes:
        name: its id.
        video: the file.
        boxes: `(T, 4)` float32, x1 y1 x2 y2 in pixels of the frames.
        points: `(T, K, 2)` float32, pixels of the frames.
    """

    name: str
    video: Path
    boxes: NDArray[np.float32]
    points: NDArray[np.float32]

    __repr__ = brief_repr

    def __len__(self) -> int:
        return len(self.points)

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """The labelled frames, `(H, W, 3)` RGB uint8 each, decoded one after another.

        Raises:
            DataError: where the file cannot be decoded or ends before the labels do.
        """
        yield from read_frames(self.video, len(self))

    @property
    def fps(self) -> float:
        """Frames a second, as the file says.

        Raises:
            DataError: where the file cannot be opened.
        """
        av = _av()
        try:
            with open_container(av, self.video) as container:
                rate = container.streams.video[0].average_rate
        except (av.error.FFmpegError, IndexError) as error:
            raise DataError(f"cannot read the video {self.video}: {error}.") from error
        return float(rate) if rate else 25.0


@dataclass
class VideoSet:
    """Labelled videos.

    Attributes:
        name: data set and split.
        layout: the landmarks.
        records: one entry a video.
        skipped: (path, reason) of what could not be used.
    """

    name: str
    layout: Layout
    records: Sequence[VideoRecord]
    skipped: list[tuple[str, str]] = field(default_factory=list)

    __repr__ = brief_repr

    def __len__(self) -> int:
        return len(self.records)

    def record(self, index: int) -> FaceRecord:
        """The labels of the middle frame of video `index`: with `read`, a set of videos can be looked at as one of faces."""
        record = self.records[index]
        middle = len(record) // 2
        x1, y1, x2, y2 = record.boxes[middle].tolist()
        return FaceRecord(record.video, record.points[middle], (x1, y1, x2, y2))

    def read(self, index: int) -> NDArray[np.uint8]:
        """The middle frame of video `index`, after all of its frames were decoded.

        Raises:
            ImageError: where the video cannot be decoded or has not as many frames as labels.
        """
        record = self.records[index]
        try:
            for t, frame in enumerate(record.frames()):
                if t == len(record) // 2:
                    chosen = frame
        except DataError as error:
            raise ImageError(record.video, str(error).rstrip(".")) from error
        return chosen


def load_wflw_v(root: str | os.PathLike[str], split: str = "all") -> VideoSet:
    """The videos of WFLW-V, or of clips that were made in its layout.

    Args:
        root: the folder that holds ``videos/``, ``bboxes/`` and ``landmarks/``; ``~`` is expanded.
        split: ``"easy"`` or ``"hard"``, listed in ``easy.txt`` and ``hard.txt``, or ``"all"``.

    Returns:
        The videos in the order of the list, or sorted by id. Those that lack a file or whose labels cannot be used are in
        `skipped`.

    Raises:
        DataError: for an unknown split, a missing folder or list, an id that leads out of the folder, or no video at all.
    """
    if split not in SPLITS_WFLW_V:
        raise DataError(
            f"unknown WFLW-V split {split!r}{did_you_mean(split, SPLITS_WFLW_V)}: choose one of {', '.join(SPLITS_WFLW_V)}."
        )
    base = user_path(root)
    if not base.is_dir():
        raise DataError(f"the WFLW-V folder {base} does not exist: pass the one with videos, bboxes and landmarks.")
    absent = [name for name in ("videos", "bboxes", "landmarks") if not (base / name).is_dir()]
    if absent:
        raise DataError(f"WFLW-V needs the folder {' and '.join(absent)} in {base}; found there: {some_of(base)}.")
    ids = sorted(p.stem for p in (base / "videos").glob("*.mp4")) if split == "all" else _listed(base, split)
    records: list[VideoRecord] = []
    skipped: list[tuple[str, str]] = []
    for name in ids:
        paths = base / "videos" / f"{name}.mp4", base / "bboxes" / f"{name}.npy", base / "landmarks" / f"{name}.npy"
        missing = [path for path in paths if not path.is_file()]
        if missing:
            skipped += [(str(path), "the file does not exist") for path in missing]
            continue
        try:
            records.append(VideoRecord(name, paths[0], *_labels(paths[1], paths[2])))
        except LabelError as error:
            skipped.append((str(error.path), error.reason))
    if not records:
        why = none_left(skipped) if ids else "there is none"
        raise DataError(f"no video to load for the split {split!r} in {base}: {why}.")
    counts = sorted({record.points.shape[1] for record in records})
    if len(counts) > 1:
        raise DataError(f"the videos in {base} have different numbers of landmarks, {counts}: keep one layout a folder.")
    return VideoSet(f"WFLW-V {split}", _of_count(counts[0]), records, skipped)


def _listed(base: Path, split: str) -> list[str]:
    path = base / f"{split}.txt"
    if not path.is_file():
        raise DataError(f"{path} is missing: it lists the ids of the {split} videos, one a line; or choose split 'all'.")
    # Lists of file names are taken too.
    return [inside(base, line.strip(), f"line {number} of {path}").stem for number, line in read_lines(path) if line.strip()]


def _labels(box_path: Path, point_path: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    boxes, points = read_array(box_path), read_array(point_path)
    counts = sorted(layout.count for layout in LAYOUTS.values())
    if points.ndim != 3 or points.shape[1] not in counts or points.shape[2] != 2 or len(points) == 0:
        raise LabelError(point_path, f"landmarks of shape (T, {' or '.join(map(str, counts))}, 2) expected, found "
                         f"{points.shape}")  # fmt: skip
    if boxes.ndim != 2 or boxes.shape[1] < 4 or len(boxes) != len(points):
        raise LabelError(box_path, f"boxes of shape ({len(points)}, 4) or wider expected, as there are {len(points)} "
                         f"frames with landmarks; found {boxes.shape}")  # fmt: skip
    layout = _of_count(points.shape[1])
    bad = ~sound(points, layout)
    if bad.any():
        frame = int(np.argmax(bad))
        raise LabelError(point_path, f"in frame {frame}, {label_fault(points[frame], layout)}")
    boxes = boxes[:, :4]
    # A comparison with NaN is false.
    whole = (boxes[:, 2:] > boxes[:, :2]).all(1) & (np.abs(boxes) <= FARTHEST_PIXEL).all(1)
    if not whole.all():
        row = int(np.argmin(whole))
        raise LabelError(box_path, f"box {row} is {boxes[row].tolist()}: finite x1 y1 x2 y2 with x1 < x2 and y1 < y2 expected")
    return boxes.astype(np.float32), points.astype(np.float32)


def _of_count(count: int) -> Layout:
    return next(layout for layout in LAYOUTS.values() if layout.count == count)


def read_array(path: Path) -> NDArray[np.float64]:
    """An array of numbers in an ``.npy`` file.

    Raises:
        LabelError: if the file cannot be read, is damaged, too large, or holds something else.
    """
    try:
        # Mapped, the header is held against the size of the file before memory is asked for.
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(mapped, np.ndarray) or mapped.dtype.kind not in "fiu":
            raise LabelError(path, "it is not an array of numbers")
        if mapped.nbytes > _LARGEST_ARRAY:
            raise LabelError(path, f"it has {mapped.nbytes} bytes, more than the {_LARGEST_ARRAY} that are read")
        return np.array(mapped, np.float64)
    except LabelError:
        raise
    # NumPy reads the header of the file as Python, and passes on what Python's own readers raise.
    except Exception as error:
        raise LabelError(path, f"it cannot be read ({error})") from error


def read_frames(path: str | os.PathLike[str], count: int) -> Iterator[NDArray[np.uint8]]:
    """The first `count` frames of a video, `(H, W, 3)` RGB uint8, one in memory at a time.

    Raises:
        DataError: where the file cannot be decoded or has fewer frames.
    """
    av, done = _av(), 0
    try:
        with open_container(av, path) as container:
            for frame in container.decode(video=0):
                if done == count:
                    return
                yield frame.to_ndarray(format="rgb24")
                done += 1
    except (av.error.FFmpegError, IndexError) as error:
        raise DataError(f"cannot decode the video {path} after {done} frames: {error}.") from error
    if done < count:
        raise DataError(f"the video {path} has {done} frames and {count} labels: is it cut short?")


def write_frames(
    path: str | os.PathLike[str], frames: Iterable[NDArray[np.uint8]], fps: int, size: tuple[int, int], crf: int = 16
) -> None:
    """Write frames of (height, width) as H.264 with halved colour in an MP4 file; the same frames give the same bytes.

    Args:
        crf: constant rate factor of x264; 16 is hard to tell from the original.

    Raises:
        DataError: where the file cannot be written. What was there before is untouched.
    """
    av, target = _av(), followed(user_path(path))
    partial = temporary_path(target)
    try:
        with av.open(str(partial), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
            # One thread, and no rate control by macroblock tree, whose results differ from run to run (x264 165, veryfast).
            options = {"crf": str(crf), "preset": "veryfast", "x264-params": "mbtree=0"}
            stream: Any = container.add_stream("libx264", Fraction(fps), options=options)
            stream.codec_context.thread_count = 1
            stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
            for pixels in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
        partial.replace(target)
    except (av.error.FFmpegError, OSError) as error:
        raise DataError(f"cannot write the video {path}: {error}.") from error
    finally:
        partial.unlink(missing_ok=True)


def write_wflw_v(
    root: str | os.PathLike[str],
    name: str,
    frames: Iterable[NDArray[np.uint8]],
    points: NDArray[np.float32],
    boxes: NDArray[np.float32],
    fps: int,
    size: tuple[int, int],
    progress: Callable[[], None] | None = None,
) -> None:
    """Adds one video and its labels, as `load_wflw_v` reads them: `(T, K, 2)` points and `(T, 4)` boxes in frame pixels.

    Raises:
        DataError: where the folder cannot be written.
    """
    base = user_path(root)

    def counted() -> Iterator[NDArray[np.uint8]]:
        for frame in frames:
            yield frame
            if progress is not None:
                progress()

    try:
        for folder in ("videos", "bboxes", "landmarks"):
            (base / folder).mkdir(parents=True, exist_ok=True)
        write_atomically(base / "bboxes" / f"{name}.npy", saved_bytes(lambda file: np.save(file, boxes)))
        write_atomically(base / "landmarks" / f"{name}.npy", saved_bytes(lambda file: np.save(file, points)))
    except OSError as error:
        raise DataError(f"cannot write the clips to {base}: {error.strerror}.") from error
    write_frames(base / "videos" / f"{name}.mp4", counted(), fps, size)


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise DataError("videos need PyAV: pip install 'ldeq[video]'.") from None
    return av
