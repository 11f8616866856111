"""Whatever lists, tables, layouts, arrays and clips hold: faces whose labels can be used, or one sentence."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from dice import NUMBERS, PIECES, WORDS, Dice
from fuzzing import SEEDS, bounded_memory, case, fuzz, mutations
from hypothesis import given

from ldeq.data import LAYOUTS, open_faces, write_image
from ldeq.data.coco import write_coco
from ldeq.data.csv_faces import write_csv
from ldeq.data.labels import label_fault
from ldeq.data.layout_files import layout_document, layout_from, read_layout
from ldeq.data.pts_faces import write_pts
from ldeq.data.records import FaceRecord, FaceSet
from ldeq.data.sources import open_videos, source_folder
from ldeq.data.wflw import write_wflw
from ldeq.data.wflw_v import write_wflw_v
from ldeq.files import user_path

LAYOUT = """\
name: five
landmarks: [left_eye, right_eye, nose, left_mouth, right_mouth]
mirror:
  - [left_eye, right_eye]
  - [left_mouth, right_mouth]
normaliser: [left_eye, right_eye]
parts:
  mouth: [left_mouth, right_mouth]
  eye: {landmarks: [0-2], closed: true}
openings:
  lips: {upper: [0, 2, 1], lower: [0, 3, 1]}
"""
FIVE = [96, 97, 54, 76, 82]
"""Places of such landmarks among the 98 of WFLW."""

RUNS = """\
name: sixty
landmarks: 68
mirror: [[0-7, 16-9], [17-21, 26-22]]
normaliser: [36, 45]
parts: {jaw: [0-16]}
"""


@pytest.fixture(scope="module", autouse=True)
def little_memory() -> Iterator[None]:
    with bounded_memory():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working folder: two faces in every form of labels that there is."""
    folder = tmp_path_factory.mktemp("labels")
    drawn = open_faces("synthetic:2#size=64")
    write_wflw(folder / "wflw", "train", drawn)
    for form in ("own", "300w/afw", "hih/train"):
        (folder / form).mkdir(parents=True)
    records, hih = [], []
    for i in range(2):
        picture, points = drawn.read(i), drawn.record(i).points
        write_image(folder / "own" / f"{i}.png", picture)
        write_image(folder / "300w" / "afw" / f"{i}.png", picture)
        write_image(folder / "hih" / "train" / f"{i}.png", picture)
        write_pts(FaceRecord(None, points[:68] + np.arange(68)[:, None] / 9), folder / "300w" / "afw" / f"{i}.pts")
        hih.append(f"{i}.png " + " ".join(f"{v / 64:.6f}" for v in points.ravel().tolist()))
        records.append(FaceRecord(folder / "own" / f"{i}.png", points[FIVE], (8.0, 8.0, 56.0, 56.0)))
        write_pts(records[-1], folder / "own" / f"{i}.pts")
    (folder / "hih" / "train.txt").write_text("\n".join(hih) + "\n")
    (folder / "own" / "layout.yaml").write_text(LAYOUT)
    own = FaceSet("own", read_layout(folder / "own" / "layout.yaml"), records)
    write_csv(folder / "own" / "labels.csv", own)
    write_coco(folder / "own" / "faces.json", own)
    points = np.stack([drawn.record(0).points] * 3)
    boxes = np.concatenate([points.min(1), points.max(1)], 1)
    write_wflw_v(folder / "clips", "a", [drawn.read(0)] * 3, points, boxes, 25, (64, 64))
    for split in ("easy", "hard"):
        (folder / "clips" / f"{split}.txt").write_text("a\na.mp4\n")
    before = os.getcwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


LISTS: dict[str, str] = {
    "wflw/WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_train.txt": "wflw:wflw",
    "hih/train.txt": "hih:hih",
    "300w/afw/0.pts": "300w:300w",
    "own/0.pts": "pts:own",
    "own/labels.csv": "csv:own",
    "own/faces.json": "coco:own/faces.json",
    "own/layout.yaml": "csv:own",
}
"""Each text file and the faces that it belongs to."""


def use(faces: FaceSet) -> None:
    """What comes out of a reader can be trained on."""
    assert len(faces) > 0
    for i in range(min(len(faces), 3)):
        record = faces.record(i)
        assert record.points.shape == (faces.layout.count, 2)
        assert label_fault(record.points, faces.layout, record.rect) is None
        assert faces.read(i).dtype == np.uint8


def in_place_of(path: Path, content: bytes, run: Callable[[], None]) -> None:
    """Runs with another content of a file, and puts its own back."""
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        run()
    finally:
        path.write_bytes(before)


@fuzz(slower=8)
@given(seed=SEEDS)
def test_lists_and_tables_of_faces(seed: int, folder: Path) -> None:
    texts = {name: (folder / name).read_text() for name in LISTS}
    for dice in mutations(seed):
        name = dice.choice(list(LISTS))
        spec = LISTS[name] + (f"#{options(dice)}" if dice.maybe(0.2) else "")

        def run(spec: str = spec) -> None:
            with case():
                use(open_faces(spec))  # type: ignore[arg-type]

        in_place_of(folder / name, dice.edited(texts[name]), run)


def options(dice: Dice) -> str:
    """Options of a specification, right and wrong ones."""
    keys = ["split", "layout", "base", "units", "axis", "subset", "seed", "size", "", "x"]
    right = ["train", "test", "own/layout.yaml", "ibug-68", "0", "1", "fractions", "pixels", "auto", "0.004", "blur", "easy"]
    return ",".join(dice.some(0, 3, lambda: f"{dice.choice(keys)}={dice.choice(right) if dice.maybe(0.7) else dice.piece()}"))


@fuzz(slower=6)
@given(seed=SEEDS)
def test_documents_of_keypoints(seed: int, folder: Path) -> None:
    document = json.loads((folder / "own" / "faces.json").read_text())
    for dice in mutations(seed):
        text = json.dumps(dice.changed(document)).encode()

        def run() -> None:
            with case():
                use(open_faces("coco:own/faces.json"))  # type: ignore[arg-type]

        in_place_of(folder / "own" / "faces.json", text, run)


@fuzz(slower=4)
@given(seed=SEEDS)
def test_layouts(seed: int, folder: Path) -> None:
    document = layout_document(read_layout(folder / "own" / "layout.yaml"))
    path = folder / "other.yaml"
    for dice in mutations(seed):
        with case():
            if dice.maybe():
                path.write_bytes(dice.edited(dice.choice([LAYOUT, RUNS])))
                layout = read_layout(path)
            else:
                layout = layout_from(dice.changed(document), "it")
            assert sorted(layout.mirror) == list(range(layout.count))
            assert layout_from(layout_document(layout), "it") == layout


@fuzz()
@given(seed=SEEDS)
def test_specifications_of_faces(seed: int, folder: Path) -> None:
    kinds = ["wflw", "300w", "hih", "csv", "coco", "pts", "synthetic", "wflw-v", "WFLW", "", "x", "http"]
    places = [
        "wflw",
        "300w",
        "hih",
        "own",
        "own/faces.json",
        "clips",
        ".",
        "2",
        "nowhere",
        "own/0.png",
        "$HOME_X",
        "${",
        "~nobody",
    ]
    for dice in mutations(seed):
        place = dice.choice(places) if dice.maybe(0.7) else dice.choice([*NUMBERS, *WORDS])
        # Nothing outside the folder.
        place = place if ".." not in place and not place.startswith(("/", "$HOME", "C:")) else "x"
        spec = dice.choice(kinds) + dice.choice([":", ":", ":", "", "::"]) + place
        spec += dice.choice(["", "#", "#"]) + dice.choice(["", "train", "test", options(dice), options(dice), dice.piece()])
        split = dice.choice([None, None, "train", "test", "easy", dice.piece()])
        with case():
            if spec.startswith("wflw-v"):
                assert len(open_videos(spec, split)) > 0
            else:
                faces = open_faces(spec, split, dice.choice([None, None, "blur", "x"]))
                assert len(faces) > 0 and faces.layout.count in {layout.count for layout in LAYOUTS.values()} | {5}
        with case():
            source_folder(spec)


@fuzz(slower=8)
@given(seed=SEEDS)
def test_arrays_of_clips(seed: int, folder: Path) -> None:
    arrays = {name: np.load(folder / "clips" / name / "a.npy") for name in ("bboxes", "landmarks")}
    for dice in mutations(seed):
        name = dice.choice(list(arrays))
        array = arrays[name].copy()
        kind = dice.randint(0, 4)
        if kind == 0:
            array.ravel()[dice.randrange(array.size)] = dice.real()
        elif kind == 1:
            array = array.astype(dice.choice(["f2", "f8", "i4", "u1", "c8", "U3", "?", "M8[s]", ">f4"]))
        elif kind == 2:
            array = array.reshape(dice.choice([(-1,), (1, -1), (-1, 1, 2), (*array.shape, 1)]))
        elif kind == 3:
            array = array[: dice.randint(0, 3)]
        file = io.BytesIO()
        np.save(file, array)
        content = file.getvalue() if 0 < kind < 4 else dice.damaged(file.getvalue(), 128)

        def run() -> None:
            with case():
                for record in open_videos("wflw-v:clips").records:
                    assert np.isfinite(record.points).all() and np.isfinite(record.boxes).all()

        in_place_of(folder / "clips" / name / "a.npy", content, run)


@fuzz(slower=8)
@given(seed=SEEDS)
def test_lists_of_clips(seed: int, folder: Path) -> None:
    for dice in mutations(seed):

        def run() -> None:
            with case():
                assert len(open_videos("wflw-v:clips#easy")) > 0

        in_place_of(folder / "clips" / "easy.txt", dice.edited("a\na.mp4\n"), run)


@fuzz(slower=10)
@given(seed=SEEDS)
def test_damaged_clips(seed: int, folder: Path) -> None:
    film = (folder / "clips" / "videos" / "a.mp4").read_bytes()
    for dice in mutations(seed):

        def run() -> None:
            with case():
                clips = open_videos("wflw-v:clips")
                assert clips.records[0].fps > 0
                clips.read(0)

        in_place_of(folder / "clips" / "videos" / "a.mp4", dice.damaged(film, 400), run)


@fuzz()
@given(seed=SEEDS)
def test_names_of_files(seed: int) -> None:
    for dice in mutations(seed):
        with case():
            user_path("".join(dice.choices(["~", "/", "a", ".", "\0", "~nobody", *PIECES], k=dice.randint(0, 4))))


def test_the_faces_that_are_fuzzed_can_all_be_read(folder: Path) -> None:
    """Else every mutation would fail for another reason than its own."""
    for spec in {*LISTS.values()}:
        faces = open_faces(spec)
        assert len(faces) == 2 and faces.skipped == []  # type: ignore[attr-defined]
        use(faces)  # type: ignore[arg-type]
    assert len(open_videos("wflw-v:clips").records) == 1
    assert cv2.imread(str(folder / "own" / "0.png")) is not None
