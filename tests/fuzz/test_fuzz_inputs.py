"""Pictures, boxes, command lines and solvers: whatever they are given, a result or one sentence."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from fuzzing import PIECES, VALUES, bounded_memory, case, fuzz
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ldeq.cli import main
from ldeq.data import WFLW98, read_image
from ldeq.data.pictures import read_header
from ldeq.engine.settings import TrainSettings
from ldeq.engine.weights import save_weights
from ldeq.errors import LdeqError
from ldeq.inputs import checked_boxes, checked_picture
from ldeq.models import LDEQ, LDEQConfig
from ldeq.ops import heatmap_readout, softargmax
from ldeq.solvers import SOLVERS, Status

DAMAGE = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 8), st.binary(max_size=8)), min_size=1, max_size=5)
PICTURE = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)


@fuzz
@given(
    suffix=st.sampled_from([".png", ".jpg", ".bmp", ".webp", ".tiff"]), damage=DAMAGE, head=st.booleans(), exif=st.booleans()
)
def test_damaged_pictures(suffix: str, damage: list[tuple[float, int, bytes]], head: bool, exif: bool, tmp_path: Path) -> None:
    data = cv2.imencode(suffix, PICTURE)[1].tobytes()
    for where, length, piece in damage:
        place = int(where * (64 if head else len(data)))
        data = data[:place] + piece + data[place + length :]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    with bounded_memory(), case():
        read_header(path)
        image = read_image(path, exif)
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size


ARRAYS = arrays.arrays(
    arrays.scalar_dtypes() | st.just(np.dtype(object)), arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
)


@fuzz
@given(boxes=ARRAYS | VALUES | st.lists(st.lists(VALUES, max_size=5), max_size=3), shape=st.sampled_from([None, (40, 50, 3)]))
def test_boxes(boxes: Any, shape: tuple[int, ...] | None) -> None:
    with case():
        found = checked_boxes(boxes, shape)
        assert found.shape[1:] == (4,) and np.isfinite(found).all()


@fuzz
@given(picture=ARRAYS | VALUES)
def test_arrays_as_pictures(picture: Any) -> None:
    with case():
        assert checked_picture(picture).dtype == np.uint8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working folder of the commands: one picture, a tiny model, settings, an output that is not theirs."""
    folder = tmp_path_factory.mktemp("commands")
    settings = TrainSettings(model=LDEQConfig.tiny(landmarks=98, image_size=32, width=16, depth=1, groups=4))
    save_weights(folder / "w.safetensors", LDEQ(settings.model), WFLW98, settings)
    cv2.imwrite(str(folder / "face.png"), PICTURE)
    (folder / "config.yaml").write_text("run: {epochs: 0}\n")
    (folder / "mine.txt").write_text("precious")
    before = os.getcwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


NAMES = st.sampled_from(
    [
        "face.png",
        "w.safetensors",
        "config.yaml",
        "mine.txt",
        "missing.png",
        ".",
        "out",
        "out/a.png",
        "out.json",
        "out.mp4",
        "*.png",
    ]
)
ARGUMENT = (
    NAMES
    # Nothing outside the folder, and no address.
    | PIECES.filter(lambda piece: "/" not in piece and ".." not in piece and len(piece) < 100 and "\ud800" not in piece)
    | st.sampled_from(
        ["wflw:.", "300w:.#x", "coco:mine.txt", "csv:mine.txt", "pts:.", "synthetic:0", "synthetic:x", "wflw-v:."]
    )
    | st.sampled_from(["1,2,3,4", "nan,0,1,1", "4,3,2,1", "cpu", "cuda:9", "tpu", "optim.lr=x", "run.out=out", "model=none"])
)
OPTIONS = {
    "predict": ["-o", "--json", "--converge", "--box", "--cropped", "--model", "--device"],
    "video": ["-o", "--json", "--csv", "--compare", "--fps", "--box", "--model", "--device"],
    "eval": ["--data", "--split", "--json", "--device"],
    "train": ["--set", "--resume", "--allow-changes", "--amp"],
    "data check": ["--split", "--sheet", "--samples", "--json"],
    "data make-faces": ["--seed", "--size"],
    "data make-clips": ["--data", "--out", "--part", "--frames"],
    "doctor": ["--help", "--x"],
    "bench": ["--help", "--device"],
}
# What makes pictures by the thousand or measures for minutes is asked with numbers that are refused alone.
REFUSED = {
    "data make-faces": ["--count", "0"],
    "data make-clips": ["--easy", "-1"],
    "bench": ["--budget=x"],
    "train": ["--amp", "x"],
}
COMMANDS = [*OPTIONS, "demo --x", "webcam --x", ""]


@fuzz
@given(data=st.data())
def test_command_lines(data: st.DataObject, folder: Path) -> None:
    command = data.draw(st.sampled_from(COMMANDS))
    argument = ARGUMENT | st.sampled_from(OPTIONS.get(command, ["--help"]))
    words = [*command.split(), *data.draw(st.lists(argument, max_size=6)), *REFUSED.get(command, [])]
    assume("-" not in words or command != "predict")  # reads the standard input
    told = io.StringIO()
    with case(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(told):
        try:
            status = main(words)
        except SystemExit as end:  # tyro has told what it cannot read, or printed help
            status = 0 if end.code in (0, None) else 1
        if status == 2:
            lines = [line for line in told.getvalue().splitlines() if line.startswith(("error: ", "skipped: "))]
            assert lines, (words, told.getvalue())
        assert "Traceback" not in told.getvalue()
    assert (folder / "mine.txt").read_text() == "precious", words
    assert (folder / "w.safetensors").exists() and (folder / "face.png").exists(), words


TOLD = (LdeqError, ValueError, TypeError, RuntimeError)
DTYPES = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool])
SHAPES = st.lists(st.integers(0, 5), max_size=5)
NUMBER = st.floats() | st.integers(-2, 20) | st.sampled_from([None, "x", 2**70])


@fuzz
@given(
    name=st.sampled_from(list(SOLVERS)),
    shape=SHAPES,
    dtype=DTYPES,
    slope=st.floats(-3, 3) | st.sampled_from([float("nan"), float("inf")]),
    kind=st.sampled_from(["linear", "cast", "shape", "none", "nan", "same"]),
    options=st.dictionaries(
        st.sampled_from(["tol", "m", "beta", "ridge", "check_every", "compact", "stop", "returns"]), NUMBER, max_size=3
    ),
    budget=st.integers(-1, 8),
)
def test_solvers(
    name: str, shape: list[int], dtype: torch.dtype, slope: float, kind: str, options: dict[str, Any], budget: int
) -> None:
    z0 = torch.zeros(shape, dtype=dtype)

    def f(z: torch.Tensor) -> Any:
        made = {
            "cast": lambda: z.double() * slope + 1,
            "shape": lambda: z[..., :1] if z.dim() else z[None],
            "none": lambda: None,
            "nan": lambda: z * float("nan"),
            "same": lambda: z,
        }
        return made.get(kind, lambda: z * slope + 1)()

    with case(*TOLD):
        found = SOLVERS[name](f, z0, max_iter=budget, **options)
        assert found.value.shape == z0.shape
        converged = found.status == Status.CONVERGED
        assert found.residual[converged].isfinite().all()


@fuzz
@given(
    shape=st.lists(st.integers(0, 9), min_size=2, max_size=5),
    dtype=DTYPES,
    fill=st.sampled_from([None, float("nan"), float("inf"), -float("inf"), 1e38]),
    beta=NUMBER,
    eps=NUMBER,
    coords=st.sampled_from(["unit", "pixel", "align_corners", "cell_center", "", None]),
    stride=st.integers(1, 3),
)
def test_softargmax_against_the_reference(
    shape: list[int], dtype: torch.dtype, fill: float | None, beta: Any, eps: Any, coords: Any, stride: int
) -> None:
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)[..., ::stride]
    if fill is not None and maps.is_floating_point() and maps.numel():
        maps[(-1,) * maps.dim()] = fill
    with case(*TOLD):
        found = softargmax(maps, beta, coords=coords, eps=eps, backend="auto")
        wanted = softargmax(maps, beta, coords=coords, eps=eps, backend="torch")
        tolerance = 1e-2 if dtype in (torch.bfloat16, torch.float16) else 1e-4
        if isinstance(beta, int | float) and abs(beta) <= 20:
            torch.testing.assert_close(found.xy, wanted.xy, rtol=tolerance, atol=tolerance, equal_nan=True)
        heatmap_readout(maps, coords=coords, eps=eps)
