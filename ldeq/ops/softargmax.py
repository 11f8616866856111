r"""Heatmap normalisation and soft-argmax.

For a map h of H rows and W columns, with X and Y the coordinates of column and row:

$$ z = \exp(\beta (h - \max h)), \quad p = z / (\sum z + \epsilon), \quad x = \sum p X, \quad y = \sum p Y, $$
$$ \mathrm{std} = \sqrt{(\sum p (X_{px} - x_{px})^2 + \sum p (Y_{px} - y_{px})^2) / 2} \cdot s $$

with variances in pixels about the mean in pixels, and s the length of one column in the chosen coordinates. This is the
readout of LDEQ (CVPR 2023, section 3; beta 0.3 or 0.4, eps 1e-4, ``coords="unit"``). Its published code subtracts a mean
in unit coordinates from columns in pixels, which is no standard deviation; here both are in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import library
from .backends import BackendError, current_backend, implementation, register, transformed

COORDS = ("unit", "pixel", "align_corners", "cell_center")


class SoftArgmax(NamedTuple):
    """What `softargmax` returns.

    - `heatmap`: `(B, K, H, W)`, z above: peak 1, in the dtype of the logits. Empty, `(0,)`, if not asked for.
    - `xy`: `(B, K, 2)`, x (column) then y (row); float32 for half inputs, else the dtype of the logits.
    - `std`: `(B, K)`, in columns of the chosen coordinates, dtype as `xy`.
    """

    heatmap: Tensor
    xy: Tensor
    std: Tensor


class Readout(NamedTuple):
    """What `heatmap_readout` returns: `xy` `(B, K, 2)` and `std` `(B, K)`, as in `SoftArgmax`."""

    xy: Tensor
    std: Tensor


def softargmax(
    logits: Tensor,
    beta: float | Tensor = 1.0,
    *,
    coords: str = "unit",
    eps: float = 0.0,
    heatmap: bool = True,
    backend: str | None = None,
) -> SoftArgmax:
    """Normalised heatmap, expected coordinates and their standard deviation.

    ```python
    out = ldeq.ops.softargmax(torch.randn(2, 98, 64, 64), beta=0.3, eps=1e-4)
    out.xy.shape        # (2, 98, 2), in [0, 1)
    ```

    Args:
        logits: `(B, K, H, W)`, floating point, any strides.
        beta: inverse temperature, *multiplies* the logits. A number, or a tensor of shape `()` or `(K,)` that may require a
            gradient.
        coords: ``"unit"`` (i / n, LDEQ and mmpose), ``"pixel"`` (i), ``"align_corners"`` (linspace(-1, 1), kornia; 0 for a
            single column) or ``"cell_center"`` ((2 i + 1) / n - 1, dsntnn).
        eps: added to the sum; 1e-4 in LDEQ, 0 elsewhere.
        heatmap: whether z is wanted; without it the compiled backends write nothing of the size of the logits.
        backend: overrides `use_backend` for this call.

    Returns:
        `SoftArgmax`. A map with a NaN gives NaN for itself alone. A map of -inf alone gives a zero heatmap and, as
        the formula says, 0 / (0 + eps): the origin for eps > 0, NaN for eps = 0.

    Raises:
        TypeError: for non-floating logits; `ValueError` for wrong shapes, an unknown `coords` or an `eps` that is negative or
            infinite.
    """
    return _given("softargmax", backend, logits, beta, coords, eps)(logits, beta, coords, eps, heatmap)


def heatmap_normalise(logits: Tensor, beta: float | Tensor = 1.0, *, backend: str | None = None) -> Tensor:
    r"""Heatmaps of peak 1, $\exp(\beta (h - \max h))$: the first half of `softargmax`, in one pass over the logits.

    Args:
        logits, beta, backend: as in `softargmax`.

    Returns:
        `(B, K, H, W)` of the logits' dtype.

    Raises:
        as `softargmax`.
    """
    return _given("heatmap_normalise", backend, logits, beta)(logits, beta)


def heatmap_readout(heatmap: Tensor, *, coords: str = "unit", eps: float = 0.0, backend: str | None = None) -> Readout:
    """Coordinates and standard deviation of maps that are normalised already: the second half of `softargmax`.

    Args:
        heatmap: `(B, K, H, W)`, non-negative, floating point; need not sum to one.
        coords, eps, backend: as in `softargmax`.

    Raises:
        as `softargmax`.
    """
    _check_maps(heatmap, "heatmap", coords, eps)
    return _implementation("heatmap_readout", backend, heatmap)(heatmap, coords, eps)


def _given(
    operator: str, backend: str | None, logits: Tensor, beta: float | Tensor, coords: str = "unit", eps: float = 0.0
) -> Callable[..., Any]:
    """What runs `operator`, once its arguments have been checked."""
    _check_maps(logits, "logits", coords, eps)
    if isinstance(beta, Tensor):
        if beta.ndim not in (0, 1) or (beta.ndim == 1 and beta.shape[0] != logits.shape[1]):
            raise ValueError(
                f"beta must have shape () or (K,) = ({logits.shape[1]},) for logits of shape {tuple(logits.shape)}, "
                f"got {tuple(beta.shape)}"
            )
        if beta.device != logits.device:
            raise ValueError(f"beta is on {beta.device} and logits on {logits.device}; move beta with .to(logits.device)")
    return _implementation(operator, backend, logits, *((beta,) if isinstance(beta, Tensor) else ()))


def _implementation(operator: str, backend: str | None, *tensors: Tensor) -> Callable[..., Any]:
    """What runs `operator` on the first of `tensors`: under `torch.func` and with forward-mode tangents only the reference can.

    `torch.library` gives an operator backward derivatives alone: tangents would be lost, and transforms raise.
    """
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    if not torch.compiler.is_compiling() and any(wrapped(t) or transformed(t) for t in tensors):
        name = current_backend() if backend is None else backend
        if name not in ("auto", "torch"):
            raise BackendError(
                f"backend {name!r} cannot run {operator!r} under torch.func or with forward-mode tangents; "
                "choose 'auto' or 'torch'"
            )
        backend = "torch"
    return implementation(operator, tensors[0], backend)


@register("softargmax", "torch")
def softargmax_reference(logits: Tensor, beta: float | Tensor, coords: str, eps: float, heatmap: bool = True) -> SoftArgmax:
    """`softargmax` in plain PyTorch: the specification that every backend is tested against."""
    z = _normalised(logits, beta)
    return SoftArgmax(z.to(logits.dtype) if heatmap else logits.new_empty(0), *heatmap_readout_reference(z, coords, eps))


@register("heatmap_normalise", "torch")
def heatmap_normalise_reference(logits: Tensor, beta: float | Tensor) -> Tensor:
    """`heatmap_normalise` in plain PyTorch: the specification that every backend is tested against."""
    return _normalised(logits, beta).to(logits.dtype)


def _normalised(logits: Tensor, beta: float | Tensor) -> Tensor:
    """exp(beta (h - max h)), not yet rounded to the logits' dtype."""
    h = logits.to(_accumulation_dtype(logits.dtype))
    peak = h.amax(dim=(-2, -1), keepdim=True)
    # -inf - -inf is NaN: a map of -inf alone must give zeros.
    peak = torch.where(peak == -torch.inf, 0.0, peak)
    if isinstance(beta, Tensor):
        beta = beta.to(h.dtype).reshape(-1, 1, 1)
    # Masked pixels (-inf): their share of the gradient of beta, z (h - max h), must be 0 and not 0 x inf.
    below = (h - peak).clamp_min(torch.finfo(h.dtype).min)
    return torch.exp(beta * below)


@register("heatmap_readout", "torch")
def heatmap_readout_reference(heatmap: Tensor, coords: str, eps: float) -> Readout:
    """`heatmap_readout` in plain PyTorch: the specification that every backend is tested against."""
    return _read(heatmap, _axes(coords, heatmap), eps)


def _read(heatmap: Tensor, axes: tuple[float, float, float, float], eps: float) -> Readout:
    z = heatmap.to(_accumulation_dtype(heatmap.dtype))
    height, width = z.shape[-2:]
    p = z / (z.sum(dim=(-2, -1), keepdim=True) + eps)
    rows, columns = p.sum(-1), p.sum(-2)
    x_px = torch.arange(width, dtype=z.dtype, device=z.device)
    y_px = torch.arange(height, dtype=z.dtype, device=z.device)
    mean_x, mean_y = (columns * x_px).sum(-1), (rows * y_px).sum(-1)
    var_x = (columns * (x_px - mean_x.unsqueeze(-1)) ** 2).sum(-1)
    var_y = (rows * (y_px - mean_y.unsqueeze(-1)) ** 2).sum(-1)
    scale_x, offset_x, scale_y, offset_y = axes
    # With eps > 0 the weights sum to slightly less than one, and an offset is weighted like any coordinate.
    mass = columns.sum(-1)
    xy = torch.stack((mean_x * scale_x + mass * offset_x, mean_y * scale_y + mass * offset_y), dim=-1)
    variance = (var_x + var_y) / 2
    # The derivative of sqrt at 0 is infinite: a map with all its weight on one pixel takes the branch without it.
    positive = variance > 0
    std = torch.where(positive, torch.where(positive, variance, 1.0).sqrt(), variance)
    return Readout(xy, std * scale_x)


def axis(coords: str, n: int) -> tuple[float, float]:
    """(scale, offset) such that pixel i of n lies at ``scale * i + offset`` in the coordinates `coords`."""
    if coords == "unit":
        return 1.0 / n, 0.0
    if coords == "pixel":
        return 1.0, 0.0
    if coords == "align_corners":
        return (2.0 / (n - 1), -1.0) if n > 1 else (0.0, 0.0)
    return 2.0 / n, 1.0 / n - 1.0


def _accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 for half types (bf16 coordinates were seen off by 0.23 pixels), else the type itself."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _check_maps(maps: Tensor, name: str, coords: str, eps: float) -> None:
    if not maps.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {maps.dtype}; convert with .float()")
    if maps.ndim != 4 or 0 in maps.shape[-2:]:
        raise ValueError(f"{name} must have shape (B, K, H, W) with H, W >= 1, got {tuple(maps.shape)}")
    if coords not in COORDS:
        raise ValueError(f"unknown coords {coords!r}; choose one of {', '.join(COORDS)}")
    if not 0 <= eps < math.inf:
        raise ValueError(f"eps must be a finite number >= 0, got {eps}")


# --- compiled implementations ------------------------------------------------------------------------------------------
#
# `stats` `(B, K, 8)` float64 is what backward needs of each map: the peak and how many pixels share it, the sum, the mass, the
# means and the variance, in pixels. Backward recomputes z from the logits: reading them once more costs less than keeping z.

_STATS = 8


# The operators of a backend are `torch.ops.ldeq.<name><suffix>`: "" for the CPU and CUDA libraries, "_triton" for Triton.


def _softargmax_by(suffix: str) -> Callable[..., SoftArgmax]:
    operator = getattr(torch.ops.ldeq, f"softargmax_forward{suffix}")

    def run(logits: Tensor, beta: float | Tensor, coords: str, eps: float, heatmap: bool = True) -> SoftArgmax:
        """Reads the logits once."""
        z, xy, std, _ = operator(logits, *_beta(beta), eps, *_axes(coords, logits), heatmap)
        return SoftArgmax(z, xy, std)

    return run


def _normalise_by(suffix: str) -> Callable[..., Tensor]:
    operator = getattr(torch.ops.ldeq, f"softargmax_forward{suffix}")

    def run(logits: Tensor, beta: float | Tensor) -> Tensor:
        """The readout comes along: next to the heatmaps it is nothing."""
        return operator(logits, *_beta(beta), 0.0, *_axes("unit", logits), True)[0]

    return run


def _beta(beta: float | Tensor) -> tuple[Tensor | None, float]:
    """(betas, beta) of the operator: a number goes by value, since a tensor for it would take a launch to fill."""
    return (beta.to(torch.float64), 1.0) if isinstance(beta, Tensor) else (None, float(beta))


def _readout_by(suffix: str) -> Callable[..., Readout]:
    operator = getattr(torch.ops.ldeq, f"heatmap_readout_forward{suffix}")

    def run(heatmap: Tensor, coords: str, eps: float) -> Readout:
        """Reads the heatmap once; backward only writes."""
        xy, std, _ = operator(heatmap, eps, *_axes(coords, heatmap))
        return Readout(xy, std)

    return run


def _axes(coords: str, maps: Tensor) -> tuple[float, float, float, float]:
    """(scale_x, offset_x, scale_y, offset_y)."""
    return (*axis(coords, maps.shape[-1]), *axis(coords, maps.shape[-2]))


def _readout_fake(maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    b, k = maps.shape[:2]
    dtype = _accumulation_dtype(maps.dtype)
    return (
        maps.new_empty((b, k, 2), dtype=dtype),
        maps.new_empty((b, k), dtype=dtype),
        maps.new_empty((b, k, _STATS), dtype=torch.float64),
    )


def _softargmax_fake(logits: Tensor, *options: Any) -> tuple[Tensor, ...]:
    z = torch.empty_like(logits, memory_format=torch.contiguous_format) if options[-1] else logits.new_empty(0)
    return (z, *_readout_fake(logits))


def _softargmax_backward_fake(
    grad_heatmap: Tensor | None, grad_xy: Tensor | None, grad_std: Tensor | None, logits: Tensor, betas: Tensor | None, *_: Any
) -> tuple[Tensor, Tensor]:
    return (
        torch.empty_like(logits, memory_format=torch.contiguous_format),
        logits.new_empty((0,) if betas is None else logits.shape[:2], dtype=torch.float64),
    )


def _softargmax_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, betas, ctx.beta, ctx.eps, *ctx.axes, ctx.want_heatmap = inputs
    ctx.save_for_backward(logits, betas, output[3])
    ctx.set_materialize_grads(False)


def _softargmax_gradient(suffix: str) -> Callable[..., tuple[Any, ...]]:
    operator = getattr(torch.ops.ldeq, f"softargmax_backward{suffix}")

    def backward(
        ctx: Any, grad_heatmap: Tensor | None, grad_xy: Tensor | None, grad_std: Tensor | None, _: Tensor | None
    ) -> tuple[Any, ...]:
        logits, betas, stats = ctx.saved_tensors
        if not ctx.want_heatmap:
            grad_heatmap = None
        if torch.is_grad_enabled():  # create_graph

            def again() -> tuple[Tensor, ...]:
                z = _normalised(logits, ctx.beta if betas is None else betas)
                return z.to(logits.dtype), *_read(z, ctx.axes, ctx.eps)

            return *_differentiable(again, (grad_heatmap, grad_xy, grad_std), (logits, betas)), *[None] * 7
        grad, parts = operator(grad_heatmap, grad_xy, grad_std, logits, betas, ctx.beta, stats, *ctx.axes)
        learned = betas is not None and ctx.needs_input_grad[1]
        return grad, (parts.sum() if betas.ndim == 0 else parts.sum(0)) if learned else None, *[None] * 7

    return backward


def _readout_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    heatmap, ctx.eps, *ctx.axes = inputs
    ctx.save_for_backward(heatmap, output[2])
    ctx.set_materialize_grads(False)


def _readout_gradient(suffix: str) -> Callable[..., tuple[Any, ...]]:
    operator = getattr(torch.ops.ldeq, f"heatmap_readout_backward{suffix}")

    def backward(ctx: Any, grad_xy: Tensor | None, grad_std: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
        heatmap, stats = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph
            found = _differentiable(lambda: _read(heatmap, ctx.axes, ctx.eps), (grad_xy, grad_std), (heatmap,))
            return *found, *[None] * 5
        return operator(grad_xy, grad_std, heatmap, stats, *ctx.axes), *[None] * 5

    return backward


def _differentiable(
    reference: Callable[[], tuple[Tensor, ...]], grads: tuple[Tensor | None, ...], inputs: tuple[Tensor | None, ...]
) -> list[Tensor | None]:
    """Gradients that can be differentiated again, those of the reference: the operators have first derivatives only."""
    came = [(result, grad) for result, grad in zip(reference(), grads, strict=True) if grad is not None]
    wanted = [t for t in inputs if t is not None and t.requires_grad]
    if not came:
        return [None] * len(inputs)
    results, of_results = zip(*came, strict=True)
    found = iter(torch.autograd.grad(results, wanted, of_results, create_graph=True, allow_unused=True))
    return [next(found) if t is not None and t.requires_grad else None for t in inputs]


def _no_second_derivative(ctx: Any, *grads: Any) -> None:
    raise NotImplementedError("ldeq's backward operators have no derivative; differentiate softargmax or heatmap_readout twice")


def _register(suffix: str, *backends: str) -> None:
    """Gives the operators of a suffix their fakes and gradients and enters them as what `backends` run."""
    fakes = {
        "softargmax_forward": _softargmax_fake,
        "softargmax_backward": _softargmax_backward_fake,
        "heatmap_readout_forward": lambda heatmap, *_: _readout_fake(heatmap),
        "heatmap_readout_backward": lambda grad_xy, grad_std, heatmap, *_: torch.empty_like(
            heatmap, memory_format=torch.contiguous_format
        ),
    }
    for name, fake in fakes.items():
        torch.library.register_fake(f"ldeq::{name}{suffix}")(fake)
    autograd = torch.library.register_autograd
    autograd(f"ldeq::softargmax_forward{suffix}", _softargmax_gradient(suffix), setup_context=_softargmax_setup)
    autograd(f"ldeq::heatmap_readout_forward{suffix}", _readout_gradient(suffix), setup_context=_readout_setup)
    autograd(f"ldeq::softargmax_backward{suffix}", _no_second_derivative)
    autograd(f"ldeq::heatmap_readout_backward{suffix}", _no_second_derivative)
    for backend in backends:
        register("softargmax", backend)(_softargmax_by(suffix))
        register("heatmap_normalise", backend)(_normalise_by(suffix))
        register("heatmap_readout", backend)(_readout_by(suffix))


if library.MISSING is None:
    _register("", "cpu", "cuda")
_register("_triton", "triton")
