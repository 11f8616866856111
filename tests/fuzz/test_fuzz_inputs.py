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
from dice import PIECES, Dice
from fuzzing import SEEDS, bounded_memory, case, fuzz, mutations
from hypothesis import given

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

PICTURE = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)


@fuzz(slower=8)
@given(seed=SEEDS)
def test_damaged_pictures(seed: int, tmp_path: Path) -> None:
    right = {suffix: cv2.imencode(suffix, PICTURE)[1].tobytes() for suffix in (".png", ".jpg", ".bmp", ".webp", ".tiff")}
    with bounded_memory():
        for dice in mutations(seed):
            suffix = dice.choice(list(right))
            path = tmp_path / f"a{suffix}"
            path.write_bytes(dice.damaged(right[suffix]))
            with case():
                read_header(path)
                image = read_image(path, dice.maybe())
                assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size


ARRAY_DTYPES = [
    "?",
    "u1",
    "i1",
    "u2",
    "i4",
    "i8",
    "u8",
    "f2",
    "f4",
    "f8",
    "g",
    "c8",
    "c16",
    "O",
    "U3",
    "S2",
    "M8[s]",
    "m8[s]",
    ">f4",
]


def array(dice: Dice) -> Any:
    """An array of any shape and dtype, or some other value."""
    if dice.maybe(0.3):
        return dice.value()
    shape = dice.some(0, 4, lambda: dice.randint(0, 5))
    if dice.maybe(0.4):
        shape = dice.choice([[40, 50, 3], [40, 50], [40, 50, 1], [40, 50, 4], [3, 4, 5], [2, 4], [4], [1, 4]])
    made = np.zeros(shape, dice.choice(ARRAY_DTYPES))
    if made.size and made.dtype.kind in "biufcO":
        with np.errstate(all="ignore"), contextlib.suppress(OverflowError, ValueError):
            made.ravel()[dice.randrange(made.size)] = dice.choice([dice.whole(), dice.real()])
            made.ravel()[dice.randrange(made.size)] = dice.randint(0, 50)
    return made


@fuzz()
@given(seed=SEEDS)
def test_boxes(seed: int) -> None:
    for dice in mutations(seed):
        boxes = array(dice) if dice.maybe() else dice.some(0, 3, lambda dice=dice: dice.some(3, 5, dice.value))
        with case():
            found = checked_boxes(boxes, dice.choice([None, (40, 50, 3)]))
            assert found.shape[1:] == (4,) and np.isfinite(found).all()


@fuzz()
@given(seed=SEEDS)
def test_arrays_as_pictures(seed: int) -> None:
    for dice in mutations(seed):
        with case():
            assert checked_picture(array(dice)).dtype == np.uint8


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


NAMES = [
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
# Nothing outside the folder, and no address.
HARMLESS = [p for p in PIECES if "/" not in p and ".." not in p and len(p) < 100 and not set(p) & set("\ud800$~\\")]
SPECIFIC = [
    *("wflw:.", "300w:.#x", "coco:mine.txt", "csv:mine.txt", "pts:.", "synthetic:0", "synthetic:x", "wflw-v:."),
    *("1,2,3,4", "nan,0,1,1", "4,3,2,1", "cpu", "cuda:9", "tpu", "optim.lr=x", "run.out=out", "model=none"),
]
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


@fuzz(slower=40)
@given(seed=SEEDS)
def test_command_lines(seed: int, folder: Path) -> None:
    for dice in mutations(seed):
        command = dice.choice(COMMANDS)
        kinds = [NAMES, HARMLESS, SPECIFIC, OPTIONS.get(command, ["--help"])]
        arguments = dice.some(0, 6, lambda dice=dice, kinds=kinds: dice.choice(dice.choice(kinds)))
        words = [*command.split(), *arguments, *REFUSED.get(command, [])]
        if "-" not in words or command != "predict":  # that would read the standard input
            command_line(words, folder)


def command_line(words: list[str], folder: Path) -> None:
    told = io.StringIO()
    with case(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(told):
        try:
            status = main(words)
        except SystemExit as end:  # tyro has told what it cannot read, or printed help
            status = 0 if end.code in (0, None) else 1
        if status == 2:
            lines = [line for line in told.getvalue().splitlines() if line.startswith(("error: ", "skipped: "))]
            assert lines, (words, told.getvalue())
        assert "Traceback" not in told.getvalue(), words
    assert (folder / "mine.txt").read_text() == "precious", words
    assert (folder / "w.safetensors").exists() and (folder / "face.png").exists(), words


TOLD = (LdeqError, ValueError, TypeError, RuntimeError)
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool]


def number(dice: Dice) -> Any:
    return dice.choice([dice.real, dice.whole, lambda: dice.randint(-2, 20), lambda: dice.choice([None, "x", True])])()


@fuzz()
@given(seed=SEEDS)
def test_solvers(seed: int) -> None:
    for dice in mutations(seed):
        a_solve(dice)


def a_solve(dice: Dice) -> None:
    z0 = torch.zeros(dice.some(0, 5, lambda: dice.randint(0, 5)), dtype=dice.choice(DTYPES))
    slope = dice.choice([dice.uniform(-3, 3), dice.uniform(-1, 1), float("nan"), float("inf")])
    kind = dice.choice(["linear", "cast", "shape", "none", "nan", "same"])
    names = ["tol", "m", "beta", "ridge", "check_every", "compact", "stop", "returns"]
    options = {name: number(dice) for name in dice.sample(names, dice.choice([0, 1, 1, 2, 3]))}

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
        found = SOLVERS[dice.choice(list(SOLVERS))](f, z0, max_iter=dice.randint(-1, 8), **options)
        assert found.value.shape == z0.shape
        converged = found.status == Status.CONVERGED
        assert found.residual[converged].isfinite().all()


@fuzz()
@given(seed=SEEDS)
def test_softargmax_against_the_reference(seed: int) -> None:
    for dice in mutations(seed):
        a_softargmax(dice)


def a_softargmax(dice: Dice) -> None:
    shape = dice.some(2, 5, lambda: dice.randint(0, 9)) if dice.maybe(0.3) else dice.some(4, 4, lambda: dice.randint(0, 9))
    dtype = dice.choice(DTYPES)
    made = torch.randn(shape, generator=torch.Generator().manual_seed(dice.randint(0, 99)))
    maps = made.to(dtype)[..., :: dice.randint(1, 3)]
    if dice.maybe() and maps.is_floating_point() and maps.numel():
        maps[(-1,) * maps.dim()] = dice.choice([float("nan"), float("inf"), -float("inf"), 1e38])
    beta, eps = number(dice), number(dice)
    coords: Any = dice.choice(["unit", "pixel", "align_corners", "cell_center", "", None])
    with case(*TOLD):
        found = softargmax(maps, beta, coords=coords, eps=eps, backend="auto")
        wanted = softargmax(maps, beta, coords=coords, eps=eps, backend="torch")
        tolerance = 1e-2 if dtype in (torch.bfloat16, torch.float16) else 1e-4
        if isinstance(beta, int | float) and abs(beta) <= 20:
            torch.testing.assert_close(found.xy, wanted.xy, rtol=tolerance, atol=tolerance, equal_nan=True)
        heatmap_readout(maps, coords=coords, eps=eps)
