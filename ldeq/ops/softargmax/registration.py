"""The compiled soft-argmax operators: their shapes, their gradients, and the backends that run them.

`stats` `(B, K, 8)` float64 is what backward needs of each map: the peak and how many pixels share it, the sum, the mass, the
means and the variance, in pixels. Backward computes z from the logits again: reading them once more costs less than keeping z.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..dispatch import register
from .definition import Readout, SoftArgmax
from .reference import accumulation_dtype, axes_of, normalised, read

Operator = Callable[..., Any]

_STATS = 8


def register_compiled() -> None:
    for suffix, backends in (("", ("cpu", "cuda")), ("_triton", ("triton",))):
        register_derivatives("ldeq", suffix)
        for name, run in implementations("ldeq", suffix).items():
            for backend in backends:
                register(name, backend)(run)


def implementations(namespace: str, suffix: str = "") -> dict[str, Callable[..., Any]]:
    """What runs each public function on the operators `torch.ops.<namespace>.<name><suffix>`."""
    operators = getattr(torch.ops, namespace)
    forward = getattr(operators, f"softargmax_forward{suffix}")
    return {
        "softargmax": _softargmax_by(forward),
        "heatmap_normalise": _normalise_by(forward),
        "heatmap_readout": _readout_by(getattr(operators, f"heatmap_readout_forward{suffix}")),
    }


def register_derivatives(namespace: str, suffix: str = "") -> None:
    """Gives the operators of a namespace their fakes and their gradients."""
    fakes: dict[str, Callable[..., Any]] = {
        "softargmax_forward": _softargmax_fake,
        "softargmax_backward": _softargmax_backward_fake,
        "heatmap_readout_forward": lambda heatmap, *_: _readout_fake(heatmap),
        "heatmap_readout_backward": lambda grad_xy, grad_std, heatmap, *_: torch.empty_like(
            heatmap, memory_format=torch.contiguous_format
        ),
    }
    for name, fake in fakes.items():
        torch.library.register_fake(f"{namespace}::{name}{suffix}")(fake)
    operators = getattr(torch.ops, namespace)
    for name, gradient, setup in (
        ("softargmax", _softargmax_gradient, _softargmax_setup),
        ("heatmap_readout", _readout_gradient, _readout_setup),
    ):
        backward = f"{name}_backward{suffix}"
        torch.library.register_autograd(
            f"{namespace}::{name}_forward{suffix}", gradient(getattr(operators, backward)), setup_context=setup
        )
        torch.library.register_autograd(f"{namespace}::{backward}", _no_second_derivative)


def _softargmax_by(operator: Operator) -> Callable[..., SoftArgmax]:

    def run(logits: Tensor, beta: float | Tensor, coords: str, eps: float, heatmap: bool = True) -> SoftArgmax:
        """Reads the logits once."""
        z, xy, std, _ = operator(logits, *_beta(beta), eps, *axes_of(coords, logits), heatmap)
        return SoftArgmax(z, xy, std)

    return run


def _normalise_by(operator: Operator) -> Callable[..., Tensor]:

    def run(logits: Tensor, beta: float | Tensor) -> Tensor:
        """The readout comes along: next to the heatmaps it is nothing."""
        return operator(logits, *_beta(beta), 0.0, *axes_of("unit", logits), True)[0]

    return run


def _beta(beta: float | Tensor) -> tuple[Tensor | None, float]:
    """(betas, beta) of the operator: a number goes by value, since a tensor for it would take a launch to fill."""
    return (beta.to(torch.float64), 1.0) if isinstance(beta, Tensor) else (None, float(beta))


def _readout_by(operator: Operator) -> Callable[..., Readout]:

    def run(heatmap: Tensor, coords: str, eps: float) -> Readout:
        """Reads the heatmap once; backward only writes."""
        xy, std, _ = operator(heatmap, eps, *axes_of(coords, heatmap))
        return Readout(xy, std)

    return run


def _readout_fake(maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if maps.ndim != 4:  # the kernels say the same, and do not run here
        raise RuntimeError(f"maps must have shape (B, K, H, W) with H, W >= 1, got {tuple(maps.shape)}")
    b, k = maps.shape[:2]
    dtype = accumulation_dtype(maps.dtype)
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


def _softargmax_gradient(operator: Operator) -> Callable[..., tuple[Any, ...]]:

    def backward(
        ctx: Any, grad_heatmap: Tensor | None, grad_xy: Tensor | None, grad_std: Tensor | None, _: Tensor | None
    ) -> tuple[Any, ...]:
        logits, betas, stats = ctx.saved_tensors
        if not ctx.want_heatmap:
            grad_heatmap = None
        if torch.is_grad_enabled():  # create_graph

            def again() -> tuple[Tensor, ...]:
                z = normalised(logits, ctx.beta if betas is None else betas)
                return z.to(logits.dtype), *read(z, ctx.axes, ctx.eps)

            return *_differentiable(again, (grad_heatmap, grad_xy, grad_std), (logits, betas)), *[None] * 7
        grad, parts = operator(grad_heatmap, grad_xy, grad_std, logits, betas, ctx.beta, stats, *ctx.axes)
        learned = betas is not None and ctx.needs_input_grad[1]
        return grad, (parts.sum() if betas.ndim == 0 else parts.sum(0)) if learned else None, *[None] * 7

    return backward


def _readout_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    heatmap, ctx.eps, *ctx.axes = inputs
    ctx.save_for_backward(heatmap, output[2])
    ctx.set_materialize_grads(False)


def _readout_gradient(operator: Operator) -> Callable[..., tuple[Any, ...]]:

    def backward(ctx: Any, grad_xy: Tensor | None, grad_std: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
        heatmap, stats = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph
            found = _differentiable(lambda: read(heatmap, ctx.axes, ctx.eps), (grad_xy, grad_std), (heatmap,))
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
