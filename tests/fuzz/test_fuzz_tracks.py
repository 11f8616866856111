"""Whatever a file of landmarks or the name of a filter holds: a track or a filter, or one sentence, in little memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fuzzing import SEEDS, bounded_memory, case, fuzz, mutations
from hypothesis import given

from ldeq.data import IBUG68
from ldeq.face import Face
from ldeq.video.filters import filter_from_text
from ldeq.video.landmark_files import CsvLandmarks, JsonLandmarks
from ldeq.video.scoring import score_track
from ldeq.video.track_files import read_track

POINTS = np.random.default_rng(0).uniform(0, 200, (68, 2)).astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def little_memory() -> Iterator[None]:
    with bounded_memory():
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tracks")
    writers = CsvLandmarks(folder / "t.csv", IBUG68), JsonLandmarks(folder / "t.json", {"fps": 25.0})
    for t in range(10):
        for writer in writers:
            writer.write(t, t / 25, [Face.of(POINTS + t, np.ones(68, np.float32), IBUG68, 0)])
    for writer in writers:
        writer.close()
    return folder / "t.csv", folder / "t.json"


def read(path: Path) -> None:
    with case():
        track = read_track(path)
        score_track(track, track.fps or 25.0, raw=track)


@fuzz(slower=8)
@given(seed=SEEDS)
def test_tables(seed: int, files: tuple[Path, Path], tmp_path: Path) -> None:
    path, right = tmp_path / "edited.csv", files[0].read_text()
    for dice in mutations(seed):
        path.write_bytes(dice.edited(right))
        read(path)


@fuzz(slower=8)
@given(seed=SEEDS)
def test_documents(seed: int, files: tuple[Path, Path], tmp_path: Path) -> None:
    path, right = tmp_path / "edited.json", json.loads(files[1].read_text())
    for dice in mutations(seed):
        text = json.dumps(dice.changed(right)).encode()
        path.write_bytes(dice.damaged(text) if dice.maybe(0.2) else text)
        read(path)


@fuzz(slower=8)
@given(seed=SEEDS)
def test_arrays(seed: int, tmp_path: Path) -> None:
    path = tmp_path / "t.npy"
    np.save(path, POINTS[None] + np.arange(10)[:, None, None])
    right = path.read_bytes()
    for dice in mutations(seed):
        path.write_bytes(dice.damaged(right, 128))
        read(path)


@fuzz()
@given(seed=SEEDS)
def test_names_of_filters(seed: int) -> None:
    for dice in mutations(seed):
        letters = "".join(dice.choices("one-eur,.=0123456789beta_mouthinf +\n", k=dice.randint(0, 40)))
        text = dice.choice(["one-euro,", ""]) + dice.choice([letters, dice.text(), dice.piece()])
        with case():
            made = filter_from_text(text, IBUG68)
            assert np.isfinite(made.track(np.repeat(POINTS[None], 12, 0), None, 25)).all()
