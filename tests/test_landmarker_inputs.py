"""A Landmarker in whatever state the process is, with whatever picture and boxes."""

from __future__ import annotations

import tracemalloc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ldeq import Landmarker
from ldeq.cli import main
from ldeq.data import warp, write_image
from ldeq.data.synthetic import render_face
from ldeq.errors import LdeqError
from ldeq.inputs import InputError, checked_boxes
from ldeq.video import tracking

IMAGE = np.random.default_rng(0).integers(0, 255, (200, 220, 3)).astype(np.uint8)
BOX = [[50.0, 50.0, 150.0, 150.0]]


@pytest.fixture(scope="module")
def lm() -> Landmarker:
    return Landmarker.load("small-68", "cpu")


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


STATES: dict[str, Any] = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "float16": lambda: default_dtype(torch.float16),
    "meta": lambda: default_device("meta"),
    "inference mode": torch.inference_mode,
    "no grad": torch.no_grad,
    "grad": torch.enable_grad,
    "deterministic": deterministic,
    "anomaly": torch.autograd.detect_anomaly,
    "numpy raises": lambda: np.errstate(all="raise"),
    "warnings are errors": warnings_are_errors,
}


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("state", STATES)
def test_the_state_of_the_process_changes_neither_loading_nor_the_answer(lm: Landmarker, state: str) -> None:
    (expected,) = lm(IMAGE, BOX)
    with STATES[state]():
        inside = Landmarker.load("small-68", "cpu")
        (loaded_and_used,) = inside(IMAGE, BOX)
        (used,) = lm(IMAGE, BOX)
        stream = inside.stream(boxes=BOX)
        first = stream(IMAGE)
    (used_outside,) = inside(IMAGE, BOX)
    for face in (loaded_and_used, used, used_outside):
        np.testing.assert_array_equal(face.points, expected.points)
        np.testing.assert_array_equal(face.std, expected.std)
    # A stream that was begun in that state goes on outside it.
    stream(IMAGE)
    assert len(first) <= 1
    assert next(inside.model.parameters()).dtype == torch.float32


@pytest.fixture(scope="module")
def drawn_face() -> tuple[np.ndarray, list[list[float]]]:
    """A picture of a face and its box; where there is none, as in noise, the last bits decide what is found."""
    image, points = render_face(np.random.default_rng(3), 160)
    return image, [[*points.min(0).tolist(), *points.max(0).tolist()]]


def test_autocast_of_the_callers_is_taken(lm: Landmarker, drawn_face: tuple[np.ndarray, list[list[float]]]) -> None:
    (expected,) = lm(*drawn_face)
    with torch.autocast("cpu", torch.bfloat16):
        (face,) = lm(*drawn_face)
    # bfloat16 keeps 8 bits: a quarter of a pixel of a 128 pixel crop.
    np.testing.assert_allclose(face.points, expected.points, atol=0.5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_that_was_cast_takes_pictures(dtype: torch.dtype, drawn_face: tuple[np.ndarray, list[list[float]]]) -> None:
    cast = Landmarker.load("small-68", "cpu")
    (expected,) = cast(*drawn_face)
    cast.model.to(dtype)
    (face,) = cast(*drawn_face)
    np.testing.assert_allclose(face.points, expected.points, atol=1e-3 if dtype == torch.float64 else 0.5)


def test_loading_takes_no_random_numbers_of_the_process() -> None:
    before = torch.random.get_rng_state()
    Landmarker.load("small-68", "cpu")
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("box", "sentence"),
    [
        ([0, 0, np.inf, np.inf], "must be finite"),
        ([np.nan, 0, 9, 9], "must be finite"),
        ([0, 0, 4e6, 4e6], "in pixels of the picture, 220 x 200, got [0.0, 0.0, 4000000.0, 4000000.0]"),
        ([-1e300, -1e300, 1e300, 1e300], "in pixels of the picture"),
        ([1e12, 1e12, 1e12 + 50, 1e12 + 50], "in pixels of the picture"),
    ],
    ids=str,
)
def test_a_box_without_end_is_a_sentence_and_takes_no_memory(lm: Landmarker, box: list[float], sentence: str) -> None:
    tracemalloc.start()
    try:
        for call in (lambda: lm(IMAGE, [box]), lambda: lm.stream(boxes=[box])(IMAGE)):
            with pytest.raises(LdeqError) as caught:
                call()
            assert sentence in str(caught.value)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_stream_refuses_a_box_without_end_once(lm: Landmarker) -> None:
    stream = lm.stream(boxes=[[0, 0, 4e6, 4e6]], detector=lambda picture: np.zeros((0, 4)))
    with pytest.raises(LdeqError, match="in pixels of the picture"):
        stream(IMAGE)
    assert stream(IMAGE) == []


@pytest.mark.parametrize("text", ["0,0,inf,inf", "0,0,nan,9", "0,0,4000000,4000000", "-1e300,-1e300,1e300,1e300"])
def test_a_box_without_end_on_the_command_line_is_a_sentence(
    tmp_path: Any, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "face.png", IMAGE)
    assert main(["predict", str(tmp_path / "face.png"), f"--box={text}"]) == 2
    told = capsys.readouterr().err.strip()
    # A box that no picture could hold is refused at once, one that this picture does not hold with the name of the picture.
    assert told.startswith(("error: ", f"skipped: {tmp_path}"))
    assert "\n" not in told


def test_a_crop_that_dwarfs_its_picture_takes_no_more_memory_than_the_picture() -> None:
    image = np.full((64, 64, 3), 200, np.uint8)
    ratio = 128 / 40_000.0
    tracemalloc.start()
    try:
        crop = warp(image, np.array([[ratio, 0, 64.0], [0, ratio, 64.0]]), 128)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert crop.shape == (128, 128, 3)


@pytest.mark.parametrize("shape", [(0, 10, 3), (10, 0, 3), (0, 0, 3)])
def test_a_picture_without_pixels_is_a_sentence(lm: Landmarker, shape: tuple[int, int, int]) -> None:
    empty: NDArray[np.uint8] = np.zeros(shape, np.uint8)
    for call in (lambda: lm(empty), lambda: lm(empty, cropped=True), lambda: lm.stream()(empty)):
        with pytest.raises(LdeqError, match="at least one pixel"):
            call()


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 50, 3), (2, 40_000, 3)])
def test_very_small_and_very_thin_pictures_hold_no_face(lm: Landmarker, shape: tuple[int, int, int]) -> None:
    assert lm(np.zeros(shape, np.uint8)) == []
    assert lm.stream()(np.zeros(shape, np.uint8)) == []


def test_a_picture_wider_than_opencv_warps_is_cropped_first(lm: Landmarker) -> None:
    wide = np.zeros((200, 40_000, 3), np.uint8)
    wide[:, 39_700 : 39_700 + 220] = IMAGE
    (there,) = lm(wide, np.array(BOX) + [39_700, 0, 39_700, 0])
    (here,) = lm(IMAGE, BOX)
    np.testing.assert_allclose(there.points - [39_700, 0], here.points, atol=0.01)


def test_flipped_and_read_only_pictures_are_pictures(lm: Landmarker) -> None:
    flipped = IMAGE[::-1, :, ::-1]
    frozen = flipped.copy()
    frozen.setflags(write=False)
    np.testing.assert_array_equal(lm(flipped, BOX)[0].points, lm(frozen, BOX)[0].points)
    assert lm(IMAGE, []) == []


def test_a_number_too_large_for_a_float_is_no_box() -> None:
    with pytest.raises(InputError, match=r"boxes must have shape \(N, 4\)"):
        checked_boxes([[0, 0, 10**400, 1]])


@pytest.mark.parametrize("boxes", [np.array([[0, 0, 4 + 3j, 5]]), [[0, 0, 4 + 3j, 5]]])
def test_boxes_of_complex_numbers_do_not_lose_their_imaginary_parts(boxes: Any) -> None:
    with pytest.raises(InputError, match=r"boxes must have shape \(N, 4\)"):
        checked_boxes(boxes)


@pytest.mark.parametrize("refine", [-1, 1.5, True, "2"])
def test_a_refinement_that_is_no_count_is_told(refine: Any, lm: Landmarker) -> None:
    with pytest.raises(LdeqError, match="refine must be a number of times, 0 or more"):
        lm(IMAGE, boxes=BOX, refine=refine)


def test_no_device_at_all_is_told() -> None:
    with pytest.raises(LdeqError, match="unknown device None; use one of auto"):
        Landmarker.load("small-68", device=None)  # type: ignore[arg-type]


def test_many_faces_go_through_the_model_in_parts(lm: Landmarker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hundred boxes took 1.5 GB at once."""
    boxes = [[20.0 + 5 * i, 30.0, 120.0 + 5 * i, 140.0] for i in range(7)]
    together, sizes = lm(IMAGE, boxes=boxes), []
    monkeypatch.setattr(tracking, "MOST_CROPS", 3)
    hook = lm.model.register_forward_pre_hook(lambda m, images: sizes.append(len(images[0])))
    try:
        parts = lm(IMAGE, boxes=boxes)
    finally:
        hook.remove()
    assert sizes == [3, 3, 1]
    for a, b in zip(together, parts, strict=True):
        np.testing.assert_allclose(a.points, b.points, rtol=0, atol=0.01)


def test_the_name_of_a_model_in_the_place_of_a_model_is_told() -> None:
    """The answer was an AttributeError about a string."""
    with pytest.raises(LdeqError, match=r"write Landmarker\.load\('small-68'\)"):
        Landmarker("small-68")  # type: ignore[arg-type]
