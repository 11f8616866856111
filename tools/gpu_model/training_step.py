"""Launches, bytes and predicted time of a training step of the paper's model on an H100, before and after fusion.

The step runs on this CPU, with one face and with two, under a mode that sees every operator. `PRICES` says what each one
launches on a GPU and what it moves; what two faces move more than one is what each further face moves. So the counts are those
of the program that trains, and the time is a model of it, which no GPU has checked:

- a kernel takes the longer of its bytes at copy bandwidth and its operations at `CONVOLUTION_SHARE` of the tensor cores' peak
  (float32 convolutions take TF32, PyTorch's default), and `RAMP_US`, until its first blocks run and its last ones end; launches
  are `LAUNCH_GAP_US` apart;
- Python needs `HOST_US` for an operator, and works ahead of the GPU: a step takes the longer of the two. What a CUDA graph
  replays needs no Python.

"Fused" is one Triton kernel for activation and GroupNorm, or what `torch.compile` makes of them: a pass for the sums of the
groups and one for the output, forward (3 N in place of 7 N, the bias of the convolution included) and backward (5 N in place of
9 N).

Not counted: copies of layout that cuDNN makes, data, and what the L2 cache answers, so that small batches come out slow.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ldeq import LDEQ
from ldeq.models import LDEQConfig, cell
from ldeq.solvers import loop

from .gpus import H100, LAUNCH_GAP_US

BATCHES = (1, 16, 64)
TENSOR_CORES = {"float32": 494.7e12, "bf16": 989.4e12}
"""Operations a second, dense, in TF32 and in bfloat16: NVIDIA's data sheet of the H100 SXM."""
CONVOLUTION_SHARE = 0.4
RAMP_US = 1.5
HOST_US = 6.0
WHAT = (
    "PREDICTION, no GPU was used: a training step of the paper's model with 5 evaluations each way; launches and bytes are "
    "counted, times are those of tools/gpu_model/training_step.py for an H100"
)


@dataclass(frozen=True)
class Work:
    """What an operator does on a GPU."""

    what: str
    """The group that it is counted in."""
    launches: int
    bytes: float
    flops: float = 0.0
    bias: tuple[int, float] = (0, 0.0)
    """The launches and bytes of it that are for a convolution's bias."""
    replayed: bool = False
    """Whether a CUDA graph of a solve holds it."""

    def times(self, one: Work, batch: int) -> Work:
        """Of `batch` faces, if this is of two and `one` of one."""

        def at(two: float, single: float) -> float:
            return single + (batch - 1) * (two - single)

        return replace(
            one,
            bytes=at(self.bytes, one.bytes),
            flops=at(self.flops, one.flops),
            bias=(one.bias[0], at(self.bias[1], one.bias[1])),
        )


Price = Callable[[Any, Sequence[Any], Any], Work]


def size(value: Any) -> int:
    """Bytes in memory of the tensors in `value`; one that is expanded has fewer than its shape says."""
    tensors = (leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor) and leaf.numel())
    return sum(t.itemsize * _elements(t) for t in tensors)


def _elements(t: Tensor) -> int:
    count = 1
    for length, stride in zip(t.shape, t.stride(), strict=True):
        count *= length if stride else 1
    return count


def generic(func: Any, args: Sequence[Any], out: Any) -> Work:
    """One kernel that reads what it is given and writes what it returns."""
    return Work("other", 1, size(args) + size(out))


def convolution(func: Any, args: Sequence[Any], out: Any) -> Work:
    v, kernel, bias = args[:3]
    added = (0, 0) if bias is None else (1, 2 * size(out))  # a kernel of its own, in place
    flops = 2.0 * out.numel() * kernel[0].numel()
    return Work("convolution", 1 + added[0], size((v, kernel, out)) + added[1], flops, added)


def convolution_backward(func: Any, args: Sequence[Any], out: Any) -> Work:
    grad, v, kernel = args[:3]
    of_input, of_kernel, of_bias = args[10]
    passes = of_input + of_kernel
    added = (1, size(grad)) if of_bias else (0, 0)
    bytes_ = passes * size((grad, v, kernel)) + added[1]
    return Work("convolution", passes + added[0], bytes_, passes * 2.0 * grad.numel() * kernel[0].numel(), added)


def group_norm(func: Any, args: Sequence[Any], out: Any) -> Work:
    """Moments; scale and shift of each channel; the output."""
    return Work("activation and norm", 3, 3 * size(args[0]))


def group_norm_backward(func: Any, args: Sequence[Any], out: Any) -> Work:
    """Two sums of a channel; factors of a group; the gradient; that of scale and shift."""
    return Work("activation and norm", 4 if args[-1][1] else 3, 5 * size(args[0]))


def batch_norm(func: Any, args: Sequence[Any], out: Any) -> Work:
    return Work("other", 1, 3 * size(args[0]))


def batch_norm_backward(func: Any, args: Sequence[Any], out: Any) -> Work:
    return Work("other", 1, 5 * size(args[0]))


def activation(func: Any, args: Sequence[Any], out: Any) -> Work:
    return replace(generic(func, args, out), what="activation and norm")


def for_each(func: Any, args: Sequence[Any], out: Any) -> Work:
    """Of PyTorch's foreach kernels one takes up to 36 tensors, and 320 blocks of 65,536 elements."""
    tensors = [t for t in args[0] if t.numel()]
    blocks = sum(ceil(t.numel() / 65536) for t in tensors)
    written = size(out) if out is not None else size(args[0])
    return Work("optimizer", max(ceil(len(tensors) / 36), ceil(blocks / 320)), size(args) + written)


def anderson_step(func: Any, args: Sequence[Any], out: Any) -> Work:
    """f, x and the other g, in pairs with their f in the mix; see csrc/cuda/anderson.cuh."""
    x, ring = args[:2]
    return Work("solver", 3, (2 * len(ring) + 4) * size(x) if args[8] is not None else 3 * size(x))


def fixed_point_step(func: Any, args: Sequence[Any], out: Any) -> Work:
    return Work("solver", 3, 3 * size(args[0]))


def best_so_far(func: Any, args: Sequence[Any], out: Any) -> Work:
    return Work("solver", 1, 2 * size(out))


def heatmaps(func: Any, args: Sequence[Any], out: Any) -> Work:
    return replace(generic(func, args, out), what="heatmaps")


PRICES: dict[str, Price] = {
    "aten::convolution": convolution,
    "aten::convolution_backward": convolution_backward,
    "aten::native_group_norm": group_norm,
    "aten::native_group_norm_backward": group_norm_backward,
    "aten::native_batch_norm": batch_norm,
    "aten::native_batch_norm_backward": batch_norm_backward,
    "aten::leaky_relu": activation,
    "aten::leaky_relu_": activation,
    "aten::leaky_relu_backward": activation,
    "ldeq::anderson_step": anderson_step,
    "ldeq::fixed_point_step": fixed_point_step,
    "ldeq::best_so_far": best_so_far,
}
# Memory that is not written, questions that the host answers, and numbers that live on the CPU.
FREE = (
    "aten::empty", "aten::new_empty", "aten::_unsafe_view", "aten::lift_fresh", "aten::promote_types", "aten::set_",
    "aten::_local_scalar_dense", "profiler::",
)  # fmt: skip


def price(func: Any, args: Sequence[Any], out: Any) -> Work | None:
    """None for what launches nothing."""
    name = func.name().partition(".")[0]
    if func.is_view or name.startswith(FREE):
        return None
    if name in PRICES:
        return PRICES[name](func, args, out)
    if name.startswith("aten::_foreach"):
        # Adam counts its steps in tensors of one number, on the CPU.
        return for_each(func, args, out) if any(t.numel() > 1 for t in args[0]) else None
    if name.startswith("ldeq::"):
        return heatmaps(func, args, out)
    return generic(func, args, out)


class Watch(TorchDispatchMode):
    """Notes each operator's work."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, Work]] = []
        self.replayed = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        work = price(func, args, out)
        if work is not None:
            self.seen.append((func.name(), replace(work, replayed=self.replayed)))
        return out

    @contextmanager
    def solves(self) -> Iterator[None]:
        """Until it ends, what the layer's forward and a solve of backward do is what CUDA graphs replay."""

        def marked(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **options: Any) -> Any:
                before, self.replayed = self.replayed, True
                try:
                    return function(*args, **options)
                finally:
                    self.replayed = before

            return call

        from ldeq.implicit import layer

        with (
            mock.patch.object(layer.DEQ, "forward", marked(layer.DEQ.forward)),
            mock.patch.object(loop, "solve", marked(loop.solve)),
        ):
            yield


def watched(config: LDEQConfig, batch: int, amp: bool) -> list[tuple[str, Work]]:
    """The operators of one training step in order, with their work."""
    torch.manual_seed(0)
    model = LDEQ(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, foreach=True)
    images = torch.randn(batch, 3, config.image_size, config.image_size)
    target = torch.rand(batch, config.landmarks, 2)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            landmarks = model(images).landmarks
        F.mse_loss(landmarks, target).backward()
        optimizer.step()

    watch = Watch()
    # As on a GPU: no other layout than the images'.
    with mock.patch.object(cell, "_layout", lambda x, dtype, recording: cell._layout_of(x)):
        step()  # the optimizer's state is made in the first one
        with watch.solves(), watch:
            step()
    return watch.seen


Step = list[tuple[str, Work]]


def counted(config: LDEQConfig, batches: Sequence[int], amp: bool) -> dict[int, Step]:
    """A step by batch."""
    one, two = watched(config, 1, amp), watched(config, 2, amp)
    assert [name for name, _ in one] == [name for name, _ in two], "one face and two take different operators"
    return {b: [(name, second.times(first, b)) for (name, first), (_, second) in zip(one, two, strict=True)] for b in batches}


def fused(step: Step) -> Step:
    """With activation, GroupNorm and the bias before them in one kernel, forward and backward."""
    out = list(step)
    for i in range(1, len(step) - 1):
        (first, work), (second, norm) = step[i], step[i + 1]
        if first == "aten::leaky_relu_" and second == "aten::native_group_norm":
            out[i], out[i + 1] = ("", _nothing(work)), (second, replace(norm, launches=2))
            neighbour = i - 1
        elif first == "aten::native_group_norm_backward" and second == "aten::leaky_relu_backward":
            out[i], out[i + 1] = (first, replace(work, launches=work.launches - 1)), ("", _nothing(norm))
            neighbour = i + 2
        else:
            continue
        name, beside = out[neighbour]
        launches, bytes_ = beside.bias
        out[neighbour] = name, replace(beside, launches=beside.launches - launches, bytes=beside.bytes - bytes_, bias=(0, 0.0))
    return [(name, work) for name, work in out if name]


def _nothing(work: Work) -> Work:
    return replace(work, launches=0, bytes=0.0)


def row(step: Step, kind: str, graphs: bool) -> dict[str, Any]:
    """A step in numbers, its groups included."""
    groups: dict[str, dict[str, float]] = {}
    for _, work in step:
        group = groups.setdefault(work.what, {"launches": 0, "gb": 0.0, "gpu_ms": 0.0})
        group["launches"] += work.launches
        group["gb"] += work.bytes / 1e9
        group["gpu_ms"] += gpu_us(work, kind) / 1e3
    host_ms = sum(HOST_US for _, work in step if not (graphs and work.replayed)) / 1e3
    gpu_ms = sum(g["gpu_ms"] for g in groups.values())
    return {
        "launches": sum(work.launches for _, work in step),
        "moved_gb": sum(work.bytes for _, work in step) / 1e9,
        "tflop": sum(work.flops for _, work in step) / 1e12,
        "norm_share": groups["activation and norm"]["gpu_ms"] / gpu_ms,
        "gpu_ms": gpu_ms,
        "host_ms": host_ms,
        "step_ms": max(gpu_ms, host_ms),
        "groups": {name: {key: round(value, 3) for key, value in group.items()} for name, group in groups.items()},
    }


def gpu_us(work: Work, kind: str) -> float:
    busy = max(work.bytes / H100.copy_bytes_per_s, work.flops / (TENSOR_CORES[kind] * CONVOLUTION_SHARE)) * 1e6
    return busy + work.launches * (RAMP_US + LAUNCH_GAP_US)


def main() -> None:
    from record import RESULTS, commit, source_hash  # of benchmarks, which is on no path but that of this program

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu_model_training_step.json")
    parser.add_argument("--kind", choices=TENSOR_CORES, nargs="*", default=list(TENSOR_CORES))
    asked = parser.parse_args()
    results: dict[str, dict[str, Any]] = {}
    for kind in asked.kind:
        for batch, step in counted(LDEQConfig.paper(check_every=0, tol=0.0), BATCHES, kind == "bf16").items():
            for name, work, graphs in (
                ("eager", step, False),
                ("CUDA graphs", step, True),
                ("fused", fused(step), False),
                ("CUDA graphs, fused", fused(step), True),
            ):
                title = f"{kind}, B {batch}: {name}"
                entry = results[title] = row(work, kind, graphs)
                print(f"{title}: {entry['launches']} launches, {entry['moved_gb']:.1f} GB, {entry['step_ms']:.1f} ms")
    record = {
        "what": WHAT,
        "prediction": True,
        "device": "no GPU; H100",
        "torch": torch.__version__,
        "commit": commit(),
        "kernel_sources": source_hash(),
        "model": {
            "operations_per_s": TENSOR_CORES,
            "convolution_share": CONVOLUTION_SHARE,
            "copy_bytes_per_s": H100.copy_bytes_per_s,
            "ramp_us": RAMP_US,
            "launch_gap_us": LAUNCH_GAP_US,
            "host_us": HOST_US,
        },
        "results": results,
    }
    asked.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
