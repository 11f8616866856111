"""The operators on Triton kernels, `torch.ops.ldeq.<name>_triton`: checks as in csrc/check.h, launches in kernels/.

Triton is imported when a kernel is first needed, and is no requirement: torch's CUDA builds bring their own.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import schemas
from .layout import FLAGS, MEASUREMENTS

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def interpreted() -> bool:
    """Whether the kernels run in Triton's interpreter, which also takes tensors on the CPU and is for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def missing() -> str | None:
    """Why the kernels cannot run here, in one line; None where they can."""
    if find_spec("triton") is None:
        return "triton is not installed; torch's CUDA builds bring it, elsewhere: pip install triton"
    if not interpreted() and not torch.cuda.is_available():
        return (
            "torch sees no GPU, and Triton compiles for GPUs alone (TRITON_INTERPRET=1 runs the kernels on the CPU, for tests)"
        )
    if not interpreted() and (reason := cannot_compile()):
        return reason
    try:
        from . import triton_kernels  # noqa: F401
    except Exception as error:  # a broken or far too old Triton can fail in any way
        return f"the installed triton cannot load the kernels: {(str(error) or repr(error)).splitlines()[0]}"
    return None


def cannot_compile() -> str | None:
    """Why Triton could not launch a kernel that it compiled, in one line: it builds the launch with a C compiler and keeps what
    it builds in a folder. It would say so at the first launch, too late for another backend."""
    if not (os.environ.get("CC") or any(shutil.which(name) for name in ("gcc", "clang"))):
        return "triton finds no C compiler; install gcc, or set CC to one"
    home = os.environ.get("TRITON_HOME") or os.path.expanduser("~")
    folder = Path(os.environ.get("TRITON_CACHE_DIR") or os.path.join(home, ".triton", "cache"))
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        return f"triton cannot write to {folder}, where it keeps what it compiles; set TRITON_CACHE_DIR to a folder of yours"
    return None


# --- argument checks: one sentence that names the argument, as csrc/check.h -----------------------------------------------


def _check(
    tensor: Tensor | None, name: str, like: Tensor, dtype: torch.dtype, shape: Sequence[int], *, dense: bool = True
) -> None:
    if tensor is None:
        return
    if tensor.device != like.device:
        raise RuntimeError(f"{name} is on {tensor.device} and must be on {like.device} like the other arguments")
    if tensor.dtype != dtype:
        raise RuntimeError(f"{name} has another dtype than this operator expects with the others: {tensor.dtype}, not {dtype}")
    if tuple(tensor.shape) != tuple(shape):
        raise RuntimeError(
            f"{name} has another shape than this operator expects with the others: {tuple(tensor.shape)}, not {tuple(shape)}"
        )
    if dense and not tensor.is_contiguous():
        raise RuntimeError(f"{name} must be contiguous")


def _check_type(tensor: Tensor, name: str) -> None:
    if tensor.dtype not in DTYPES:
        raise RuntimeError(f"{name} must be float32, bfloat16 or float16 for the Triton kernels, got {tensor.dtype}")


def _check_maps(maps: Tensor, name: str) -> None:
    if maps.ndim != 4 or 0 in maps.shape[2:]:
        raise RuntimeError(f"{name} must have shape (B, K, H, W) with H, W >= 1, got {tuple(maps.shape)}")
    _check_type(maps, name)


def _checked_beta(betas: Tensor | None, beta: float, logits: Tensor) -> Tensor | float:
    if betas is None:
        return beta
    if betas.ndim > 1 or (betas.ndim == 1 and betas.shape[0] != logits.shape[1]):
        raise RuntimeError(f"betas must have shape () or (K,), got {tuple(betas.shape)}")
    _check(betas, "betas", logits, torch.float64, betas.shape, dense=False)
    return betas.contiguous()


def _check_step(
    x: Tensor,
    f: Tensor,
    evicted: Tensor | None,
    measurements: Tensor,
    flags: Tensor,
    saved_best: Tensor,
    x_next: Tensor | None,
    x_cast: Tensor | None,
    m: int,
) -> None:
    if x.ndim != 2:
        raise RuntimeError(f"x must have shape (B, D), got {tuple(x.shape)}")
    batch, shape = x.shape[0], x.shape
    _check(x, "x", x, torch.float32, shape)
    _check(measurements, "measurements", x, torch.float64, (batch, MEASUREMENTS))
    _check(flags, "flags", x, torch.int64, (batch, FLAGS + m))
    _check_type(saved_best, "saved_best")
    _check(saved_best, "saved_best", x, saved_best.dtype, shape)
    _check(evicted, "evicted", x, saved_best.dtype, shape)
    _check(x_next, "x_next", x, torch.float32, shape)
    _check(x_cast, "x_cast", x, f.dtype, shape)


# --- the operators --------------------------------------------------------------------------------------------------------

Axes = tuple[float, float, float, float]


def _softargmax_forward(
    logits: Tensor, betas: Tensor | None, beta: float, eps: float, sx: float, ox: float, sy: float, oy: float,
    want_heatmap: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    _check_maps(logits, "logits")
    given = _checked_beta(betas, beta, logits)
    from .triton_kernels import softargmax

    return softargmax.launch_forward(logits, given, eps, (sx, ox, sy, oy), want_heatmap)


def _softargmax_backward(
    grad_heatmap: Tensor | None, grad_xy: Tensor | None, grad_std: Tensor | None, logits: Tensor, betas: Tensor | None,
    beta: float, stats: Tensor, sx: float, ox: float, sy: float, oy: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    _check_maps(logits, "logits")
    given = _checked_beta(betas, beta, logits)
    return _backward(grad_heatmap, grad_xy, grad_std, logits, given, stats, (sx, ox, sy, oy))


def _readout_forward(heatmap: Tensor, eps: float, sx: float, ox: float, sy: float, oy: float) -> tuple[Tensor, Tensor, Tensor]:
    _check_maps(heatmap, "heatmap")
    from .triton_kernels import softargmax

    return softargmax.launch_forward(heatmap, None, eps, (sx, ox, sy, oy), False)[1:]


def _readout_backward(
    grad_xy: Tensor | None, grad_std: Tensor | None, heatmap: Tensor, stats: Tensor, sx: float, ox: float, sy: float, oy: float
) -> Tensor:
    _check_maps(heatmap, "heatmap")
    return _backward(None, grad_xy, grad_std, heatmap, None, stats, (sx, ox, sy, oy))[0]


def _backward(
    grad_heatmap: Tensor | None, grad_xy: Tensor | None, grad_std: Tensor | None, maps: Tensor,
    beta: Tensor | float | None, stats: Tensor, axes: Axes,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    b, k = maps.shape[:2]
    _check(stats, "stats", maps, torch.float64, (b, k, 8))
    _check(grad_heatmap, "grad_heatmap", maps, maps.dtype, maps.shape, dense=False)
    _check(grad_xy, "grad_xy", maps, torch.float32, (b, k, 2), dense=False)
    _check(grad_std, "grad_std", maps, torch.float32, (b, k), dense=False)
    from .triton_kernels import softargmax

    heatmap, xy, std = (None if g is None else g.contiguous() for g in (grad_heatmap, grad_xy, grad_std))
    return softargmax.launch_backward(heatmap, xy, std, maps, beta, stats, axes)


def _anderson_step(
    x: Tensor, f_ring: list[Tensor], evicted: Tensor | None, g_ring: Tensor, gram: Tensor, measurements: Tensor, flags: Tensor,
    saved_best: Tensor, x_next: Tensor | None, x_cast: Tensor | None, slot: int, *options: Any,
) -> None:  # fmt: skip
    if g_ring.ndim != 3:
        raise RuntimeError(f"g_ring must have shape (m, B, D), got {tuple(g_ring.shape)}")
    m, n = g_ring.shape[0], len(f_ring)
    if not 1 <= m <= 16:
        raise RuntimeError(f"m must lie in 1..16, got {m}")
    if not 1 <= n <= m:
        raise RuntimeError(f"f_ring must have 1..m entries, got {n}")
    if not 0 <= slot < n:
        raise RuntimeError(f"slot must name an entry of f_ring, got {slot}")
    _check_type(f_ring[0], "f_ring")
    _check_step(x, f_ring[0], evicted, measurements, flags, saved_best, x_next, x_cast, m)
    for f in f_ring:
        _check(f, "f_ring", x, f_ring[0].dtype, x.shape)
    half = g_ring.dtype == torch.bfloat16
    _check(g_ring, "g_ring", x, torch.bfloat16 if half else torch.float32, (m, *x.shape))
    _check(gram, "gram", x, torch.float64, (x.shape[0], m, m))
    from .triton_kernels import anderson

    anderson.launch_step(x, f_ring, evicted, g_ring, gram, measurements, flags, saved_best, x_next, x_cast, slot, *options)


def _fixed_point_step(
    x: Tensor, f: Tensor, evicted: Tensor | None, measurements: Tensor, flags: Tensor, saved_best: Tensor,
    x_next: Tensor | None, x_cast: Tensor | None, slot: int, *options: Any,
) -> None:  # fmt: skip
    if slot != 0:
        raise RuntimeError(f"slot must be 0: a fixed-point step keeps no history, got {slot}")
    _check_type(f, "f")
    _check_step(x, f, evicted, measurements, flags, saved_best, x_next, x_cast, 0)
    _check(f, "f", x, f.dtype, x.shape)
    from .triton_kernels import fixed_point

    fixed_point.launch_step(x, f, evicted, measurements, flags, saved_best, x_next, x_cast, *options)


def _best_so_far(ring: list[Tensor], saved_best: Tensor, start: Tensor, flags: Tensor) -> Tensor:
    if start.ndim != 2 or flags.ndim != 2 or flags.shape[1] < FLAGS:
        raise RuntimeError("start and flags must have two dimensions")
    _check_type(start, "start")
    _check(start, "start", start, start.dtype, start.shape)
    _check(saved_best, "saved_best", start, start.dtype, start.shape)
    _check(flags, "flags", start, torch.int64, (start.shape[0], flags.shape[1]))
    for value in ring:
        _check(value, "ring", start, start.dtype, start.shape)
    from .triton_kernels import sample_state

    return sample_state.launch_best_so_far(ring, saved_best, start, flags)


_OPERATORS: dict[str, Callable[..., Any]] = {
    "softargmax_forward": _softargmax_forward,
    "softargmax_backward": _softargmax_backward,
    "heatmap_readout_forward": _readout_forward,
    "heatmap_readout_backward": _readout_backward,
    "anderson_step": _anderson_step,
    "fixed_point_step": _fixed_point_step,
    "best_so_far": _best_so_far,
}


def _on_its_device(run: Callable[..., Any]) -> Callable[..., Any]:
    """Triton launches on the current GPU, which need not be that of the tensors."""

    def launch(*args: Any) -> Any:
        first = next(a for a in args if isinstance(a, Tensor))
        if not first.is_cuda:
            return run(*args)
        with torch.cuda.device(first.device):
            return run(*args)

    return launch


for _name, _run in _OPERATORS.items():
    for _device in ("CUDA", "CPU"):  # the CPU: the interpreter alone
        schemas.TRITON.impl(f"{_name}_triton", _on_its_device(_run), _device)
