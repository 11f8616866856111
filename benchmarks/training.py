"""A training step of LDEQ against the plain baseline: images a second, peak memory, and where the time goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from baseline import Baseline
from memory import peak_bytes
from torch import Tensor, nn
from torch.nn import functional as F

from ldeq.cli.timing import paired
from ldeq.models import LDEQ, LDEQConfig

SHARE_STEPS = 3


def _ignoring_round(run: Callable[[], Tensor], _: int) -> Tensor:
    return run()


def fixed_budget(config: LDEQConfig) -> LDEQConfig:
    """The same evaluations for both models: no sample stops early, and the ridge is the published one."""
    published: dict[str, Any] = {"ridge": -1e-4, "safeguards": False} if config.solver == "anderson" else {}
    return replace(config, tol=0.0, **published)


def pair(config: LDEQConfig, device: str = "cpu") -> tuple[LDEQ, Baseline]:
    """Ours and the baseline, with the same parameters."""
    ours = LDEQ(config).to(device)
    baseline = Baseline(config).to(device)
    baseline.load_state_dict(ours.state_dict())
    return ours, baseline


def training_step(model: nn.Module, images: Tensor, target: Tensor, amp: bool = False) -> Callable[[], Tensor]:
    """One step of AdamW on the smooth L1 error of the landmarks; returns the loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> Tensor:
        optimizer.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=amp):
            out = model(images)
        loss = F.smooth_l1_loss(out if isinstance(out, Tensor) else out.landmarks, target)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def steps(config: LDEQConfig, batch: int, device: str = "cpu", *, rounds: int = 5) -> dict[str, dict[str, float]]:
    """Times, ``images_per_s``, ``peak_mb`` and the shares of the time, by model; on a GPU also both under bf16 autocast."""
    config = fixed_budget(config)
    images = torch.randn(batch, 3, config.image_size, config.image_size, device=device)
    target = torch.rand(batch, config.landmarks, 2, device=device)
    runs: dict[str, Callable[[], Tensor]] = {}
    models: dict[str, nn.Module] = {}
    cuda = torch.device(device).type == "cuda"
    for suffix, amp in (("", False), (", bf16", True)) if cuda else (("", False),):
        ours, baseline = pair(config, device)
        if amp:
            baseline = baseline.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        here: dict[str, nn.Module] = {f"ldeq{suffix}": ours, f"eager baseline{suffix}": baseline}
        if cuda:
            graphs = LDEQ(replace(config, check_every=0, cuda_graphs=True)).to(device)
            graphs.load_state_dict(ours.state_dict())
            here[f"ldeq, CUDA graphs{suffix}"] = graphs
        models |= here
        runs |= {name: training_step(model, images, target, amp) for name, model in here.items()}
    found: dict[str, dict[str, float]] = paired(
        {name: partial(_ignoring_round, run) for name, run in runs.items()}, device=device, rounds=rounds, warm=1
    )
    for name, entry in found.items():
        entry["images_per_s"] = batch / (entry["median_ms"] / 1e3)
        entry["peak_mb"] = peak_bytes(runs[name], device) / 2**20
        entry |= shares(models[name], runs[name], device, min(SHARE_STEPS, rounds))
    return found


def shares(model: Any, step: Callable[[], Tensor], device: str, steps: int) -> dict[str, float]:
    """Shares of a step's time: ``cell_share``, f in the two solves; ``solver_share``, the rest of the solves;
    ``rest_share``, the stem, the tracked evaluation and its backward, the readout and the optimiser."""
    watch = {"solve": 0.0, "cell": 0.0}

    def timed(what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            begin = _now(device)
            out = function(*arguments)
            watch[what] += _now(device) - begin
            return out

        return run

    deq = model.deq
    solvers = deq.solver, deq.backward_solver
    forward, backward = solvers[0], solvers[1] or solvers[0]
    deq.solver = timed("solve", lambda f, z0: forward(timed("cell", f), z0))
    deq.backward_solver = timed("solve", lambda f, z0: backward(timed("cell", f), z0))
    try:
        begin = _now(device)
        for _ in range(steps):
            step()
        total = _now(device) - begin
    finally:
        deq.solver, deq.backward_solver = solvers
    return {
        "cell_share": watch["cell"] / total,
        "solver_share": (watch["solve"] - watch["cell"]) / total,
        "rest_share": (total - watch["solve"]) / total,
    }


def describe(entry: dict[str, float]) -> str:
    """What `steps` found for one model, as a line: its time and how sure it is, and where the time goes."""
    spread = f"{entry['median_ms']:.0f} ms (20 to 80 %: {entry['p20_ms']:.0f} to {entry['p80_ms']:.0f})"
    shares = f"cell {entry['cell_share']:.0%}, solver {entry['solver_share']:.1%}, rest {entry['rest_share']:.0%}"
    speed = f"{entry['images_per_s']:.2f} images/s, {entry['ratio']:.2f} times ours"
    return f"{spread}, {speed}, peak {entry['peak_mb']:.0f} MiB; {shares}"


def _now(device: str) -> float:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
