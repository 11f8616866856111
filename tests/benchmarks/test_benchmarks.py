"""Every benchmark once at a tiny size, on a CPU; the baselines are what they say they are; the tables are in step."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torchdeq.solver import get_solver

from ldeq.cli import bench, timing
from ldeq.cli.main import main
from ldeq.models import LDEQ, LDEQConfig


def tiny(**options) -> LDEQConfig:
    return LDEQConfig.tiny(landmarks=3, width=16, **options)


# The benchmarks run


def test_operators() -> None:
    import operators

    shape = (1, 2, 8, 8)
    for results in (
        operators.softargmax_forward(shape, rounds=1, compile=False),
        operators.softargmax_backward(shape, rounds=1, compile=False),
        operators.anderson_step(1, 64, 3, 5, rounds=1),
    ):
        assert next(iter(results)) == "ours"
        assert all(entry["median_ms"] > 0 for entry in results.values())


def test_readouts_of_peers_agree_with_ours() -> None:
    import operators

    h = 4 * torch.randn(2, 3, 8, 8)
    place = {name: f(h) for name, f in operators.readouts(compile=False).items()}
    pixels = 8 * place["ours"] * (1 + 1e-4)
    torch.testing.assert_close(place["eager"], place["ours"], atol=1e-5, rtol=0)
    # kornia's coordinates are normalised with the corners' centres at -1 and 1, dsntnn's with the corners there.
    torch.testing.assert_close((place["kornia"] + 1) * 7 / 2, pixels, atol=5e-3, rtol=0)
    torch.testing.assert_close((place["dsntnn"] + 1) * 4 - 0.5, pixels, atol=5e-3, rtol=0)


def test_whole_solves() -> None:
    import solves

    results = solves.throughput(1, (2, 4, 4), 6, rounds=1, compile=False)
    assert set(results) == {"Anderson", "fixed point"}
    for entries in results.values():
        assert all(entry["iterations_per_s"] > 0 and entry["bytes_per_s"] > 0 for entry in entries.values())


def test_answers_are_torchdeqs_to_its_tolerance() -> None:
    import solves

    found = solves.answers(2, (3, 8, 8))
    assert found["ours to the answer"] <= 1
    assert found["ours to torchdeq's"] <= 1


@pytest.mark.parametrize("solver", ["fixed_point", "anderson"])
def test_training_step(solver: str) -> None:
    import training

    results = training.steps(tiny(solver=solver), 1, rounds=5)
    assert set(results) == {"ldeq", "eager baseline"}
    for entry in results.values():
        line = training.describe(entry)
        assert f"cell {entry['cell_share']:.0%}, solver {entry['solver_share']:.1%}, rest {entry['rest_share']:.0%}" in line
        assert entry["peak_mb"] > 0
        assert entry["cell_share"] + entry["solver_share"] + entry["rest_share"] == pytest.approx(1)
        assert min(entry["cell_share"], entry["solver_share"], entry["rest_share"]) > 0


def test_quantiles_of_a_training_step_are_of_several_rounds() -> None:
    """One round is its own median, best and quantiles."""
    import test_training_step

    for rounds in test_training_step.ROUNDS.values():
        assert min(rounds.values()) >= 5


def test_memory_and_its_plot(tmp_path: Path) -> None:
    import memory

    found = memory.against_budget(tiny(), 1, budgets=(2, 6))
    memory.plot(found, "title", tmp_path / "memory.png")
    assert (tmp_path / "memory.png").stat().st_size > 1000
    assert found["implicit"]["6"] == pytest.approx(found["implicit"]["2"], rel=0.01)
    assert found["jfb"]["6"] == pytest.approx(found["jfb"]["2"], rel=0.01)
    # Four more evaluations are kept, beside the stem and the evaluations that both have.
    assert found["unrolled"]["6"] > 1.5 * found["unrolled"]["2"]


def test_peak_memory_is_that_of_the_tensors_alive() -> None:
    import memory

    def run() -> None:
        a = torch.zeros(1 << 20)
        b = a + 1
        del a
        (b + 1).sum()

    assert memory.peak_bytes(run) == pytest.approx(8 << 20, rel=0.01)


@pytest.mark.filterwarnings("ignore:cuda_graphs")  # a CPU has no CUDA graphs, and the layer says so
def test_bodies_of_the_gpu_benchmarks() -> None:
    import gpu

    found, more = gpu.kernels((2, 8, 8), "cpu", batches=(1, 2), dtypes=(torch.float32, torch.bfloat16), rounds=1)
    assert set(more["copy_bytes_per_s"]) == {f"B = {b}, {d}" for b in (1, 2) for d in ("float32", "bfloat16")}
    assert "Anderson step, m = 6, B = 2, bfloat16, torch" in found
    found, more = gpu.replays((2, 8, 8), "cpu", batches=(2,), dtypes=(torch.float32,), rounds=1)
    cases = ("soft-argmax forward", "Anderson step, m = 6", "fixed-point step")
    assert set(found) == {f"{case}, B = 2, float32, cpu" for case in cases}
    assert all(entry["median_ms"] > 0 and entry["floor"] > 0 for entry in found.values()) and more["copy_bytes_per_s"] > 0
    found, more = gpu.graph_solves((2, 8, 8), 4, "cpu", batches=(1,), rounds=1)
    assert set(found) == {f"B = 1, {n}" for n in ("CUDA graph", "no look at the host", "a look every step", "torchdeq")}
    assert "CUDA" in more["graph_missing_because"]["B = 1"]


# The baselines are what they say


def test_the_published_loop_has_torchdeqs_iterates() -> None:
    import published

    def recording(points: list[torch.Tensor]):
        slope = torch.linspace(-0.5, 0.95, 40, dtype=torch.float64)

        def f(z: torch.Tensor) -> torch.Tensor:
            points.append(z.clone())
            return slope * z.cos() + 1

        return f

    mine: list[torch.Tensor] = []
    theirs: list[torch.Tensor] = []
    start = torch.zeros(2, 40, dtype=torch.float64)
    for beta in (1.0, 0.7):
        mine.clear()
        theirs.clear()
        published.anderson(recording(mine), start, m=4, max_iter=14, lam=1e-4, beta=beta)
        get_solver("anderson")(recording(theirs), start, m=4, max_iter=14, tol=0.0, lam=1e-4, tau=beta)
        assert len(mine) == len(theirs) == 14
        for k, (p, q) in enumerate(zip(mine, theirs, strict=True)):
            torch.testing.assert_close(p, q, rtol=0, atol=1e-10, msg=f"iterate {k}")


@pytest.mark.parametrize("solver", ["fixed_point", "anderson"])
def test_the_baseline_model_is_ours_written_plainly(solver: str) -> None:
    import training

    torch.manual_seed(0)
    ours, baseline = training.pair(training.fixed_budget(tiny(solver=solver)))
    assert list(ours.state_dict()) == list(baseline.state_dict())
    images = torch.randn(2, 3, 64, 64)
    a, b = ours(images).landmarks, baseline(images)
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    (loss_a, loss_b) = a.square().sum(), b.square().sum()
    loss_a.backward()
    loss_b.backward()
    for (name, p), q in zip(ours.named_parameters(), baseline.parameters(), strict=True):
        assert p.grad is not None
        assert q.grad is not None
        scale = max(q.grad.norm().item(), 1e-2)
        assert (p.grad - q.grad).norm().item() < 1e-3 * scale, name


# The floor


def test_bytes_of_the_floor() -> None:
    assert bench.anderson_bytes(101, 6, torch.float32) - bench.anderson_bytes(100, 6, torch.float32) == 15 * 4
    assert bench.anderson_bytes(101, 6, torch.float64) - bench.anderson_bytes(100, 6, torch.float64) == 15 * 8
    assert bench.anderson_bytes(101, 6, torch.bfloat16) - bench.anderson_bytes(100, 6, torch.bfloat16) == 8 * 2 + 8 * 4
    assert bench.anderson_bytes(1, 6, torch.float32) == bench.fixed_point_bytes(1, torch.float32, "cpu") == 2 * 4
    assert bench.fixed_point_bytes(2, torch.float32, "cuda") == (3 + 2) * 4
    assert bench.fixed_point_bytes(2, torch.float32, "cpu") == (2 + 2) * 4
    assert bench.fixed_point_bytes(2, torch.bfloat16, "cpu") == (2 + 4 + 4 + 2) + 2 + 4


def test_paired_rotates_and_compares_with_the_first() -> None:
    seen: list[int] = []
    work = torch.randn(200, 200)
    times = timing.paired({"a": seen.append, "b": lambda _: [work @ work for _ in range(50)]}, rounds=4, warm=2)
    assert seen == [0, 1, 2, 3, 4, 5]
    assert times["a"]["ratio"] == 1.0
    assert times["b"]["ratio"] > 1
    assert times["b"]["p20_ms"] <= times["b"]["median_ms"] <= times["b"]["p80_ms"]
    assert timing.copy_bandwidth("cpu", 1 << 16, rounds=2) > 0


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "measure", lambda device, batch, dtype, rounds: _measured(batch, dtype))
    assert main(["bench", "--batch", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["batch"] == 2
    assert set(report["cases"]["fixed-point step"]) == set(bench.backends("cpu"))
    assert main(["bench", "--dtype", "bfloat16"]) == 0
    out = capsys.readouterr().out
    assert "Anderson step, m = 6" in out
    assert "GB/s" in out
    assert main(["bench", "--batch", "0"]) == 2
    assert "batch and rounds must be >= 1" in capsys.readouterr().err


MEASURE = bench.measure


def _measured(batch: int, dtype: torch.dtype) -> dict[str, object]:
    return MEASURE("cpu", batch, dtype, shape=(2, 8, 8), steps=3, rounds=1)


# The tables


def test_the_table_is_that_of_the_results() -> None:
    import table

    assert (table.RESULTS / "TABLE.md").read_text() == table.full(table.load()), "run: python benchmarks/table.py"


def test_what_was_not_measured_is_said_to_be_so() -> None:
    import table

    assert table.short({}).count(table.NOT_MEASURED) == len(table.SHORT)
    assert table.full({}).count(table.NOT_MEASURED) == len(table.GPU)


def test_a_record_on_a_gpu_has_its_section() -> None:
    import table

    records = table.load()
    record = copy.deepcopy(records["anderson_step"])
    del record["threads"]
    record |= {"driver": "570.1", "cuda": "12.8"}
    assert "driver 570.1, CUDA 12.8" in table.section(record)[0]


def test_inference_by_engine_compares_the_same_landmarks() -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    import inference
    import numpy as np

    model = LDEQ(LDEQConfig.tiny(landmarks=98, width=16, depth=1, groups=4, image_size=32, tol=0.0)).eval()
    row = inference.compare(model, 2, 2, 1, rounds=1)
    assert set(row) > {"modules, ms", "modules / exported", "exported, onnxruntime, ms"}
    assert all(value > 0 for value in row.values())
    crops = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    truth = np.random.default_rng(1).uniform(0, 32, (2, 98, 2)).astype(np.float32)
    found = inference.accuracy(model, crops, truth, (60, 72))
    assert found["modules"]["farthest from the modules"] == 0
    # Not the exported model: untrained residuals need not fall, and a solve returns the point of the lowest.
    assert all(found[name]["farthest from the modules"] < 1e-4 for name in inference.ENGINES)
