"""Heatmap soft-argmax and its readout, forward and backward, in Triton: the formulas of ldeq/ops/softargmax.py.

One program a map. Maps of up to `HELD` pixels are held in registers, so that each is read once; bigger ones are read several
times, a block at a time. The gradient's formula is derived in csrc/cuda/softargmax_backward.cuh.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Most pixels held at once, and pixels of a block where a map has more: twice as many of either spill registers.
HELD = 8192
BLOCK = 2048

# Saved of each map, float64: max (0 for a map of -inf alone), pixels that share it, sum + eps, sum / (sum + eps), means of
# column and row, mean of their variances, and 0.
STATS = 8

_LOWEST = tl.constexpr(-3.4028234663852886e38)


@triton.jit
def _offsets(pixel, width, stride_h, stride_w):
    row = pixel // width
    column = pixel - row * width
    return row.to(tl.int64) * stride_h + column.to(tl.int64) * stride_w, column.to(tl.float32), row.to(tl.float32)


@triton.jit
def _weight(h, peak, beta, inside):
    # A NaN stays one; -inf below any max gives 0 and not 0 x inf.
    below = h - peak
    below = tl.where(below < _LOWEST, _LOWEST, below)
    return tl.where(inside, tl.exp(beta * below), 0.0), below


@triton.jit
def _block_max(h):
    """(max, whether there is a NaN): the maximum of the hardware ignores NaN."""
    return tl.max(tl.where(h != h, -float("inf"), h)), tl.max((h != h).to(tl.int32))


@triton.jit
def softargmax_forward(
    maps, betas, heatmap, xy, std, stats,
    channels, height, width, stride_b, stride_k, stride_h, stride_w, beta_stride,
    beta, eps, scale_x, offset_x, scale_y, offset_y,
    NORMALISE: tl.constexpr, BETAS: tl.constexpr, KEEP: tl.constexpr, HOLD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0).to(tl.int64)
    count = height * width
    source = maps + index // channels * stride_b + index % channels * stride_k
    lane = tl.arange(0, BLOCK)
    scale = beta
    peak = 0.0
    highest = 0.0
    h = tl.zeros([BLOCK], tl.float32)
    if HOLD:
        offset, _, _ = _offsets(lane, width, stride_h, stride_w)
        h = tl.load(source + offset, mask=lane < count, other=-float("inf")).to(tl.float32)
    if NORMALISE:
        if BETAS:
            scale = tl.load(betas + index % channels * beta_stride).to(tl.float32)
        if HOLD:
            highest, bad = _block_max(h)
        else:
            highest = -float("inf")
            bad = 0
            for start in range(0, count, BLOCK):
                offset, _, _ = _offsets(start + lane, width, stride_h, stride_w)
                part = tl.load(source + offset, mask=start + lane < count, other=-float("inf")).to(tl.float32)
                part_highest, part_bad = _block_max(part)
                highest = tl.maximum(highest, part_highest)
                bad = tl.maximum(bad, part_bad)
        highest = tl.where(bad > 0, float("nan"), highest)
        peak = tl.where(highest == -float("inf"), 0.0, highest)

    mass = 0.0
    first_x = 0.0
    first_y = 0.0
    ties = 0.0
    for start in range(0, BLOCK if HOLD else count, BLOCK):
        inside = start + lane < count
        offset, column, row = _offsets(start + lane, width, stride_h, stride_w)
        part = h
        if not HOLD:
            part = tl.load(source + offset, mask=inside, other=0.0).to(tl.float32)
        if NORMALISE:
            z, _ = _weight(part, peak, scale, inside)
            ties += tl.sum((inside & (part == highest)).to(tl.float32))
            if KEEP:
                tl.store(heatmap + index * count + start + lane, z.to(heatmap.dtype.element_ty), mask=inside)
        else:
            z = tl.where(inside, part, 0.0)
        mass += tl.sum(z)
        first_x += tl.sum(z * column)
        first_y += tl.sum(z * row)
    total = mass + eps
    if NORMALISE:  # one division: at least the peak's 1 is below it, where a readout's maps may be tiny
        inverse = 1.0 / total
        mean_x = first_x * inverse
        mean_y = first_y * inverse
    else:
        mean_x = first_x / total
        mean_y = first_y / total

    square_x = 0.0
    square_y = 0.0
    for start in range(0, BLOCK if HOLD else count, BLOCK):
        inside = start + lane < count
        offset, column, row = _offsets(start + lane, width, stride_h, stride_w)
        part = h
        if not HOLD:
            part = tl.load(source + offset, mask=inside, other=0.0).to(tl.float32)
        if NORMALISE:
            z, _ = _weight(part, peak, scale, inside)
        else:
            z = tl.where(inside, part, 0.0)
        square_x += tl.sum(z * ((column - mean_x) * (column - mean_x)))
        square_y += tl.sum(z * ((row - mean_y) * (row - mean_y)))
    var_x = square_x / total
    var_y = square_y / total
    variance = (var_x + var_y) / 2
    deviation = tl.where(variance > 0, tl.sqrt(tl.where(variance > 0, variance, 1.0)), variance)
    tl.store(xy + 2 * index, mean_x * scale_x + mass / total * offset_x)
    tl.store(xy + 2 * index + 1, mean_y * scale_y + mass / total * offset_y)
    tl.store(std + index, deviation * scale_x)
    out = stats + 8 * index
    # In float64: backward takes what eps lost as 1 - sum / (sum + eps), a small difference of large numbers.
    exact = tl.cast(mass, tl.float64) + eps
    tl.store(out, peak)
    tl.store(out + 1, ties)
    tl.store(out + 2, exact)
    tl.store(out + 3, tl.cast(mass, tl.float64) / exact)
    tl.store(out + 4, mean_x)
    tl.store(out + 5, mean_y)
    tl.store(out + 6, variance)
    tl.store(out + 7, 0.0)


@triton.jit
def softargmax_backward(
    maps, betas, stats, grad_heatmap, grad_xy, grad_std, grad_maps, grad_betas,
    channels, height, width, stride_b, stride_k, stride_h, stride_w, beta_stride,
    beta, scale_x, offset_x, scale_y, offset_y,
    NORMALISE: tl.constexpr, BETAS: tl.constexpr, HAS_HEATMAP: tl.constexpr, HOLD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0).to(tl.int64)
    count = height * width
    lane = tl.arange(0, BLOCK)
    saved = stats + 8 * index
    peak = tl.load(saved).to(tl.float32)
    ties = tl.load(saved + 1).to(tl.float32)
    total = tl.load(saved + 2).to(tl.float32)
    lost = (1.0 - tl.load(saved + 3)).to(tl.float32)
    mean_x = tl.load(saved + 4).to(tl.float32)
    mean_y = tl.load(saved + 5).to(tl.float32)
    half = tl.load(saved + 6).to(tl.float32)
    spread = 2 * half
    gx = tl.load(grad_xy + 2 * index)
    gy = tl.load(grad_xy + 2 * index + 1)
    # As the reference: where the variance is 0, std is the variance itself.
    v = tl.load(grad_std + index) * scale_x * tl.where(half > 0, 0.25 / tl.sqrt(tl.where(half > 0, half, 1.0)), 0.5)
    slope_x = (gx * scale_x - 2 * v * mean_x * lost) / total
    slope_y = (gy * scale_y - 2 * v * mean_y * lost) / total
    square = v / total
    a = gx * offset_x + gy * offset_y
    constant = a * lost / total - square * spread
    q = a * (1 - lost) + gx * scale_x * mean_x + gy * scale_y * mean_y
    q += v * (spread - 2 * lost * (mean_x * mean_x + mean_y * mean_y))
    known = tl.where(total == total, lost * q, 0.0)

    if NORMALISE:
        source = maps + index // channels * stride_b + index % channels * stride_k
        scale = beta
        if BETAS:
            scale = tl.load(betas + index % channels * beta_stride).to(tl.float32)
        from_heatmap = 0.0
        from_beta = 0.0
        # Held maps are read once all the same: the compiler unrolls loops of one round and joins equal loads (tested).
        for start in range(0, BLOCK if HOLD else count, BLOCK):
            inside = start + lane < count
            offset, column, row = _offsets(start + lane, width, stride_h, stride_w)
            h = tl.load(source + offset, mask=inside, other=0.0).to(tl.float32)
            z, below = _weight(h, peak, scale, inside)
            dx = column - mean_x
            dy = row - mean_y
            gradient = constant + slope_x * dx + slope_y * dy + square * (dx * dx + dy * dy)
            if HAS_HEATMAP:
                extra = tl.load(grad_heatmap + index * count + start + lane, mask=inside, other=0.0).to(tl.float32)
                gradient += extra
                from_heatmap += tl.sum(tl.where(h - peak >= _LOWEST, z * extra, 0.0))
            if BETAS:
                from_beta += tl.sum(tl.where(inside, z * gradient * below, 0.0))
        # No pixel equals a NaN: the map's whole gradient is NaN then, as 0 / 0 in the reference.
        share = -scale * (from_heatmap + known) / ties
        elsewhere = tl.where(ties > 0, 0.0, float("nan"))
        for start in range(0, BLOCK if HOLD else count, BLOCK):
            inside = start + lane < count
            offset, column, row = _offsets(start + lane, width, stride_h, stride_w)
            h = tl.load(source + offset, mask=inside, other=0.0).to(tl.float32)
            z, below = _weight(h, peak, scale, inside)
            dx = column - mean_x
            dy = row - mean_y
            gradient = constant + slope_x * dx + slope_y * dy + square * (dx * dx + dy * dy)
            if HAS_HEATMAP:
                gradient += tl.load(grad_heatmap + index * count + start + lane, mask=inside, other=0.0).to(tl.float32)
            out = tl.where(h - peak >= _LOWEST, scale * z * gradient, 0.0) + tl.where(h == peak, share, elsewhere)
            tl.store(grad_maps + index * count + start + lane, out.to(grad_maps.dtype.element_ty), mask=inside)
        if BETAS:
            tl.store(grad_betas + index, from_beta)
    else:
        for start in range(0, BLOCK if HOLD else count, BLOCK):
            _, column, row = _offsets(start + lane, width, stride_h, stride_w)
            dx = column - mean_x
            dy = row - mean_y
            gradient = constant + slope_x * dx + slope_y * dy + square * (dx * dx + dy * dy)
            out = gradient.to(grad_maps.dtype.element_ty)
            tl.store(grad_maps + index * count + start + lane, out, mask=start + lane < count)


def launch_shape(pixels: int) -> tuple[bool, int, int]:
    """(held, pixels of a block, warps): a table rather than tuning, so that the first call is as fast as the last."""
    if pixels <= HELD:
        block = max(32, triton.next_power_of_2(pixels))
        return True, block, 1 if block <= 512 else 4 if block <= 2048 else 8 if block <= 4096 else 16
    return False, BLOCK, 8


def beta_arguments(beta: Tensor | float | None) -> tuple[Tensor | None, float]:
    """(betas, beta) of the kernels: a number goes by value, since a tensor for it would take a launch to fill."""
    return (beta, 1.0) if isinstance(beta, Tensor) else (None, 1.0 if beta is None else beta)


def launch_forward(
    maps: Tensor, beta: Tensor | float | None, eps: float, axes: tuple[float, float, float, float], want_heatmap: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(heatmap, xy, std, stats) of maps `(B, K, H, W)`; beta is a number, `()` or `(K,)`, None for normalised maps."""
    b, k, h, w = maps.shape
    heatmap = torch.empty(maps.shape if want_heatmap else (0,), dtype=maps.dtype, device=maps.device)
    xy = torch.empty(b, k, 2, dtype=torch.float32, device=maps.device)
    std = torch.empty(b, k, dtype=torch.float32, device=maps.device)
    stats = torch.empty(b, k, STATS, dtype=torch.float64, device=maps.device)
    if b * k:
        hold, block, warps = launch_shape(h * w)
        betas, number = beta_arguments(beta)
        softargmax_forward[(b * k,)](
            maps, maps if betas is None else betas, heatmap, xy, std, stats,
            k, h, w, *maps.stride(), 0 if betas is None else betas.ndim, number, eps, *axes,
            NORMALISE=beta is not None, BETAS=betas is not None, KEEP=want_heatmap, HOLD=hold, BLOCK=block,
            num_warps=warps, enable_fp_fusion=True,
        )  # fmt: skip
    return heatmap, xy, std, stats


def launch_backward(
    grad_heatmap: Tensor | None,
    grad_xy: Tensor | None,
    grad_std: Tensor | None,
    maps: Tensor,
    beta: Tensor | float | None,
    stats: Tensor,
    axes: tuple[float, float, float, float],
) -> tuple[Tensor, Tensor]:
    """(gradient of the maps, `(B, K)` parts of the gradient of a beta tensor, float64); gradients come in contiguous."""
    b, k, h, w = maps.shape
    grad_maps = torch.empty(maps.shape, dtype=maps.dtype, device=maps.device)
    betas, number = beta_arguments(beta)
    parts = torch.empty((0,) if betas is None else (b, k), dtype=torch.float64, device=maps.device)
    if b * k:
        hold, block, warps = launch_shape(h * w)
        if grad_xy is None:
            grad_xy = torch.zeros(b, k, 2, dtype=torch.float32, device=maps.device)
        if grad_std is None:
            grad_std = torch.zeros(b, k, dtype=torch.float32, device=maps.device)
        softargmax_backward[(b * k,)](
            maps, maps if betas is None else betas, stats, maps if grad_heatmap is None else grad_heatmap, grad_xy, grad_std,
            grad_maps, parts, k, h, w, *maps.stride(), 0 if betas is None else betas.ndim, number, *axes,
            NORMALISE=beta is not None, BETAS=betas is not None, HAS_HEATMAP=grad_heatmap is not None, HOLD=hold, BLOCK=block,
            num_warps=warps, enable_fp_fusion=True,
        )  # fmt: skip
    return grad_maps, parts
