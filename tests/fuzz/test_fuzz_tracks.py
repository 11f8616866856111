"""Whatever a file of landmarks or the name of a filter holds: a track or a filter, or one sentence, in little memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import EDITS, VALUES, bounded_memory, case, edited, fuzz, replaced
from hypothesis import given
from hypothesis import strategies as st

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


@fuzz
@given(edits=EDITS)
def test_tables(edits: Any, files: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "edited.csv"
    path.write_bytes(edited(files[0].read_text(), edits))
    read(path)


@fuzz
@given(where=st.floats(0, 1), value=VALUES, kind=st.integers(0, 2))
def test_documents(where: float, value: Any, kind: int, files: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "edited.json"
    path.write_text(json.dumps(replaced(json.loads(files[1].read_text()), where, value, kind)))
    read(path)


@fuzz
@given(edits=EDITS)
def test_arrays(edits: Any, tmp_path: Path) -> None:
    path = tmp_path / "t.npy"
    np.save(path, POINTS[None] + np.arange(10)[:, None, None])
    path.write_bytes(edited(path.read_bytes().decode("latin-1"), edits))
    read(path)


@fuzz
@given(
    text=st.text(st.sampled_from("one-eur,.=0123456789beta_mouthinf +\n"), max_size=40) | st.text(max_size=20),
    start=st.booleans(),
)
def test_names_of_filters(text: str, start: bool) -> None:
    try:
        made = filter_from_text(("one-euro," if start else "") + text, IBUG68)
    except ValueError as error:
        assert str(error) and "\n\n" not in str(error)
    else:
        assert np.isfinite(made.track(np.repeat(POINTS[None], 12, 0), None, 25)).all()
