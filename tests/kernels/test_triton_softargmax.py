"""The soft-argmax Triton kernels in the interpreter, against the float64 reference."""

import math

import pytest
import torch
from torch import Tensor

from ldeq.ops.softargmax import axis, heatmap_readout_reference, softargmax_reference

softargmax = pytest.importorskip("ldeq.kernels.softargmax")

# Relative to the largest entry. float32: a few hundred roundings of 6e-8. Half types: the rounding of the output.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def axes(coords: str, maps: Tensor) -> tuple[float, float, float, float]:
    return (*axis(coords, maps.shape[-1]), *axis(coords, maps.shape[-2]))


def close(actual: Tensor, expected: Tensor, tolerance: float, size: float = 0.0) -> None:
    """Within `tolerance` of the largest entry, or of `size`: coordinates are as exact as their range, also near 0."""
    size = max(float(expected.nan_to_num().abs().max()), size) or 1.0
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance * size, equal_nan=True)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 2, 7, 5), (1, 1, 1, 1), (1, 1, 64, 64), (1, 1, 129, 130)], ids=str)
def test_forward_and_backward_against_float64(shape, dtype):
    generator = torch.Generator().manual_seed(0)
    b, k, h, _ = shape
    maps = (4 * torch.randn(shape, generator=generator)).to(dtype)
    learned = k > 1
    beta = torch.linspace(0.3, 0.7, k) if learned else torch.tensor(0.4)
    coords, eps = ("cell_center", 1e-2) if learned else ("unit", 0.0)
    gz = torch.randn(shape, generator=generator).to(dtype) if h % 2 == 0 else None
    gxy, gstd = torch.randn(b, k, 2, generator=generator), torch.randn(b, k, generator=generator)

    maps64, beta64 = maps.double().requires_grad_(), beta.double().requires_grad_()
    expected = softargmax_reference(maps64, beta64, coords, eps)
    loss = (expected.xy * gxy).sum() + (expected.std * gstd).sum() + (0 if gz is None else (expected.heatmap * gz).sum())
    loss.backward()

    heatmap, xy, std, stats = softargmax.launch_forward(maps, beta, axes(coords, maps), eps, True)
    close(heatmap, expected.heatmap.detach(), TOLERANCE[dtype])
    close(xy, expected.xy.detach(), 1e-5, size=1)
    close(std, expected.std.detach(), 1e-5)
    grad, parts = softargmax.launch_backward(maps, beta, axes(coords, maps), eps, stats, gz, gxy, gstd, True)
    close(grad, maps64.grad, TOLERANCE[dtype])
    # The sum cancels: its rounding is that of its terms, of the size of the gradients of single pixels times the logits.
    slack = 1e-5 * float((maps64.grad * maps64.detach()).abs().sum() / 0.3)
    summed = parts.sum(0) if learned else parts.sum()
    torch.testing.assert_close(summed.double(), beta64.grad, rtol=1e-5, atol=slack)


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (132, 128)], ids=str)
def test_readout_of_normalised_maps(size):
    maps = torch.rand(1, 2, *size, generator=torch.Generator().manual_seed(1))
    maps64 = maps.double().requires_grad_()
    xy64, std64 = heatmap_readout_reference(maps64, "align_corners", 1e-2)
    gxy, gstd = torch.randn(1, 2, 2), torch.randn(1, 2)
    ((xy64 * gxy).sum() + (std64 * gstd).sum()).backward()
    beta, where = torch.tensor(1.0), axes("align_corners", maps)
    _, xy, std, stats = softargmax.launch_forward(maps, beta, where, 1e-2, False)
    close(xy, xy64.detach(), 1e-5, size=1)
    close(std, std64.detach(), 1e-5)
    grad, _ = softargmax.launch_backward(maps, beta, where, 1e-2, stats, None, gxy, gstd, False)
    close(grad, maps64.grad, 1e-5)


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "sliced"])
def test_any_strides(layout):
    maps = torch.randn(2, 3, 12, 10, generator=torch.Generator().manual_seed(2))
    if layout == "channels_last":
        maps = maps.contiguous(memory_format=torch.channels_last)
    else:
        maps = maps.transpose(-1, -2) if layout == "transposed" else maps[:, :, 1::2, 1:8]
    expected = softargmax_reference(maps.double(), 1.3, "pixel", 0.0)
    heatmap, xy, std, _ = softargmax.launch_forward(maps, torch.tensor(1.3), axes("pixel", maps), 0.0, True)
    close(heatmap, expected.heatmap, 1e-5)
    close(xy, expected.xy, 1e-5)
    close(std, expected.std, 1e-5)


@pytest.mark.parametrize("eps", [0.0, 1e-4])
@pytest.mark.parametrize("size", [(8, 8), (130, 128)], ids=str)
def test_bad_maps_stay_confined_and_match_the_reference(size, eps):
    maps = torch.randn(1, 6, *size, generator=torch.Generator().manual_seed(3))
    maps[0, 1, 2, 3] = math.nan
    maps[0, 2] = -math.inf
    maps[0, 3, 1, 1] = math.inf
    maps[0, 4, :, ::2] = -math.inf
    gxy, gstd = torch.randn(1, 6, 2), torch.randn(1, 6)
    reference = maps.double().requires_grad_()
    expected = softargmax_reference(reference, 0.4, "unit", eps)
    ((expected.xy * gxy).sum() + (expected.std * gstd).sum()).backward()
    beta, where = torch.tensor(0.4), axes("unit", maps)
    heatmap, xy, std, stats = softargmax.launch_forward(maps, beta, where, eps, True)
    grad, _ = softargmax.launch_backward(maps, beta, where, eps, stats, None, gxy, gstd, True)
    for actual, wanted in ((heatmap, expected.heatmap), (xy, expected.xy), (std, expected.std), (grad, reference.grad)):
        wanted = wanted.detach()
        assert torch.equal(actual.isnan(), wanted.isnan())
        for k in range(6):
            close(actual[0, k], wanted[0, k], 1e-5)
    assert torch.isfinite(xy[0, [0, 4, 5]]).all() and torch.isfinite(grad[0, [0, 4, 5]]).all()
