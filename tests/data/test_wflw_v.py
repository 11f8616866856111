"""Videos in the layout of WFLW-V: read, checked, refused with a sentence that says what to do."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ldeq.data import IBUG68, WFLW98, DataError, check, load_wflw_v, open_faces, write_wflw_v
from ldeq.data.sources import is_video_spec, open_videos
from ldeq.data.wflw_v import read_frames, write_frames

pytest.importorskip("av")

LENGTHS = {"b-hard": 5, "a-easy": 3, "c-hard": 4}


def labels(frames: int, count: int = 68) -> np.ndarray:
    rng = np.random.default_rng(frames)
    points = rng.uniform(20, 70, (frames, count, 2))
    left, right = (IBUG68 if count == 68 else WFLW98).outer_eyes
    points[:, left], points[:, right] = (25, 30), (65, 30)
    return points.astype(np.float32)


def pictures(frames: int, height: int = 80, width: int = 96) -> list[np.ndarray]:
    return [np.full((height, width, 3), 20 * t + 30, np.uint8) for t in range(frames)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, frames in LENGTHS.items():
        points = labels(frames)
        boxes = np.concatenate([points.min(1), points.max(1)], 1)
        write_wflw_v(tmp_path, name, pictures(frames), points, boxes, 25, (80, 96))
    (tmp_path / "easy.txt").write_text("a-easy\n")
    # Names of files are taken as well.
    (tmp_path / "hard.txt").write_text("c-hard.mp4\nb-hard\n\n")
    return tmp_path


def test_what_was_written_is_read_in_the_order_of_the_list(root: Path) -> None:
    videos = load_wflw_v(root, "hard")
    assert videos.layout is IBUG68
    assert [r.name for r in videos.records] == ["c-hard", "b-hard"]
    assert [r.name for r in load_wflw_v(root).records] == ["a-easy", "b-hard", "c-hard"]
    for record in videos.records:
        np.testing.assert_array_equal(record.points, labels(LENGTHS[record.name]))
        assert record.boxes.dtype == record.points.dtype == np.float32
        assert record.fps == 25
        frames = list(record.frames())
        assert len(frames) == len(record)
        for read, written in zip(frames, pictures(len(record)), strict=True):
            assert np.abs(read.astype(int) - written).max() <= 3


def test_columns_behind_the_box_and_float64_are_taken(root: Path) -> None:
    boxes = np.load(root / "bboxes" / "a-easy.npy").astype(np.float64)
    np.save(root / "bboxes" / "a-easy.npy", np.concatenate([boxes, np.ones((3, 2))], 1))
    np.testing.assert_allclose(load_wflw_v(root, "easy").records[0].boxes, boxes, rtol=1e-6)


def test_98_points(tmp_path: Path) -> None:
    points = labels(3, 98)
    write_wflw_v(tmp_path, "x", pictures(3), points, np.concatenate([points.min(1), points.max(1)], 1), 30, (80, 96))
    assert load_wflw_v(tmp_path).layout is WFLW98


def test_a_video_without_labels_is_left_out_with_the_reason(root: Path) -> None:
    (root / "landmarks" / "b-hard.npy").unlink()
    videos = load_wflw_v(root, "hard")
    assert [r.name for r in videos.records] == ["c-hard"]
    assert videos.skipped == [(str(root / "landmarks" / "b-hard.npy"), "the file does not exist")]
    (root / "videos" / "c-hard.mp4").unlink()
    with pytest.raises(DataError, match="none of the 2 found can be used.*the file does not exist"):
        load_wflw_v(root, "hard")


def spoil(root: Path, folder: str, array: np.ndarray) -> None:
    np.save(root / folder / "a-easy.npy", array)


def test_bad_labels_are_refused(root: Path) -> None:
    points, boxes = np.load(root / "landmarks" / "a-easy.npy"), np.load(root / "bboxes" / "a-easy.npy")
    for folder, array, message in (
        ("landmarks", points[:, :50], r"shape \(T, 68 or 98, 2\) expected"),
        ("landmarks", np.where(points > 50, np.nan, points), "not finite"),
        ("bboxes", boxes[:2], "there are 3 frames with landmarks"),
        ("bboxes", boxes[:, [2, 1, 0, 3]], "x1 < x2 and y1 < y2 expected"),
        ("landmarks", np.array([{"a": 1}], object), "cannot be read"),
    ):
        spoil(root, folder, array)
        with pytest.raises(DataError, match=message):
            load_wflw_v(root, "easy")
        spoil(root, "landmarks", points)
        spoil(root, "bboxes", boxes)
    spoil(root, "landmarks", labels(3, 98))
    with pytest.raises(DataError, match="different numbers of landmarks"):
        load_wflw_v(root)


def test_folders_and_splits_that_are_not_there(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown WFLW-V split 'middle'"):
        load_wflw_v(root, "middle")
    with pytest.raises(DataError, match="does not exist"):
        load_wflw_v(root / "nowhere")
    with pytest.raises(DataError, match="needs the folder bboxes and landmarks"):
        (tmp_path / "half" / "videos").mkdir(parents=True)
        load_wflw_v(tmp_path / "half")
    (tmp_path / "half" / "bboxes").mkdir()
    (tmp_path / "half" / "landmarks").mkdir()
    with pytest.raises(DataError, match=r"no video to load for the split 'all' in .*: there is none\."):
        load_wflw_v(tmp_path / "half", "all")
    (root / "easy.txt").unlink()
    with pytest.raises(DataError, match="or choose split 'all'"):
        load_wflw_v(root, "easy")


def test_a_video_that_is_cut_short_or_no_video(root: Path) -> None:
    record = load_wflw_v(root, "easy").records[0]
    with pytest.raises(DataError, match="has 3 frames and 9 labels"):
        list(read_frames(record.video, 9))
    # Frames without labels at the end are not looked at.
    assert len(list(read_frames(record.video, 2))) == 2
    data = record.video.read_bytes()
    record.video.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="cannot decode the video"):
        list(record.frames())
    record.video.write_bytes(b"no video")
    with pytest.raises(DataError, match="cannot read the video"):
        _ = record.fps


def test_check_decodes_every_frame_and_draws_the_middle_one(root: Path) -> None:
    assert check(load_wflw_v(root), root / "sheet.png").sheet == str(root / "sheet.png")
    data = (root / "videos" / "b-hard.mp4").read_bytes()
    (root / "videos" / "b-hard.mp4").write_bytes(data[: len(data) // 2])
    report = check(load_wflw_v(root))
    assert not report.ok
    assert [Path(path).stem for path, _ in report.unreadable] == ["b-hard"]


def test_specifications(root: Path) -> None:
    assert is_video_spec("wflw-v:x") and not is_video_spec("wflw:x")
    assert len(open_videos(f"wflw-v:{root}#hard")) == 2
    assert len(open_videos(f"wflw-v:{root}", "easy")) == 1
    with pytest.raises(DataError, match="holds videos"):
        open_faces(f"wflw-v:{root}")
    with pytest.raises(DataError, match="does not name labelled videos"):
        open_videos(f"wflw:{root}")
    with pytest.raises(DataError, match="does not say where"):
        open_videos("wflw-v")
    with pytest.raises(DataError, match="unknown option 'subset'"):
        open_videos(f"wflw-v:{root}#subset=blur")


def test_memory_does_not_grow_with_the_video(tmp_path: Path) -> None:
    frames = 120
    points = np.repeat(labels(1), frames, 0)
    picture = np.zeros((240, 320, 3), np.uint8)
    boxes = np.concatenate([points.min(1), points.max(1)], 1)
    write_wflw_v(tmp_path, "long", (picture for _ in range(frames)), points, boxes, 30, (240, 320))
    record = load_wflw_v(tmp_path).records[0]
    tracemalloc.start()
    for t, _ in enumerate(record.frames()):
        if t == 20:
            early = tracemalloc.get_traced_memory()[0]
    late = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert late - early < 2 * picture.nbytes


def test_a_clip_whose_making_ends_early_leaves_the_earlier_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_frames(path, pictures(3), 25, (80, 96))
    earlier = path.read_bytes()

    def broken() -> Iterator[NDArray[np.uint8]]:
        yield from pictures(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_frames(path, broken(), 25, (80, 96))
    assert path.read_bytes() == earlier
    assert list(tmp_path.iterdir()) == [path]
    write_frames(path, pictures(4), 25, (80, 96))
    assert len(list(read_frames(path, 4))) == 4
