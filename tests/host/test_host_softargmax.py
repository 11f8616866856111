"""The soft-argmax device code, run on the CPU, against the float64 reference."""

import math

import pytest
import torch
from torch import Tensor

from ldeq.ops.softargmax import axis, heatmap_readout_reference, softargmax_reference

# Relative to the size of the quantity. float32: a few hundred roundings of 6e-8. Half types: the rounding of the output.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}

# (B, K, H, W): one for each launch shape and its limits, odd sizes that forbid vectors, single rows, columns and pixels.
SHAPES = [
    (2, 3, 16, 16),
    (1, 2, 64, 64),
    (1, 2, 7, 5),
    (2, 1, 1, 9),
    (1, 2, 13, 1),
    (1, 1, 1, 1),
    (1, 1, 33, 35),
    (1, 1, 96, 80),
    (1, 1, 75, 71),
    (1, 1, 130, 128),
]


def call(kernels, what: str, maps: Tensor, beta: Tensor, coords: str, eps: float, **tensors: Tensor | None) -> None:
    (scale_x, offset_x), (scale_y, offset_y) = axis(coords, maps.shape[-1]), axis(coords, maps.shape[-2])
    names = (
        "heatmap",
        "xy",
        "std",
        "stats",
        "grad_heatmap",
        "grad_xy",
        "grad_std",
        "grad_input",
        "grad_beta_parts",
        "grad_beta",
    )
    kernels.softargmax(
        what,
        str(maps.dtype).removeprefix("torch."),
        {
            "shape": list(maps.shape),
            "strides": list(maps.stride()),
            "axes": [scale_x, offset_x, scale_y, offset_y],
            "eps": eps,
            "beta": beta.data_ptr(),
            "beta_stride": beta.ndim,
            "input": maps.data_ptr(),
            **{n: 0 if tensors.get(n) is None else tensors[n].data_ptr() for n in names},
        },
    )


def poisoned(*shape: int, dtype: torch.dtype) -> Tensor:
    """Unwritten elements show."""
    return torch.full(shape, math.nan, dtype=dtype)


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def forward(kernels, maps: Tensor, beta: Tensor, coords: str = "unit", eps: float = 1e-4, what: str = "forward"):
    b, k, h, w = maps.shape
    a = wide(maps.dtype)
    heatmap = poisoned(b, k, h, w, dtype=maps.dtype) if what == "forward" else None
    xy, std, stats = poisoned(b, k, 2, dtype=a), poisoned(b, k, dtype=a), poisoned(b, k, 7, dtype=a)
    call(kernels, what, maps, beta, coords, eps, heatmap=heatmap, xy=xy, std=std, stats=stats)
    return heatmap, xy, std, stats


def close(actual: Tensor, expected: Tensor, tolerance: float, size: float = 0.0) -> None:
    """Within `tolerance` of the largest entry, or of `size`: coordinates are as exact as their range, also near 0."""
    size = max(float(expected.abs().max()), size) or 1.0
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance * size, equal_nan=True)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_and_backward_against_float64(kernels, shape, dtype):
    if dtype in (torch.float16, torch.float64) and shape not in SHAPES[:3]:
        pytest.skip("covered by float32 and bfloat16, whose code it shares")
    generator = torch.Generator().manual_seed(0)
    b, k, h, _ = shape
    maps = (4 * torch.randn(shape, generator=generator)).to(dtype)
    a = wide(dtype)
    learned = k > 1
    beta = torch.linspace(0.3, 0.7, k, dtype=a) if learned else torch.tensor(0.4, dtype=a)
    coords, eps = ("cell_center", 1e-2) if learned else ("unit", 0.0)
    gz = torch.randn(shape, generator=generator).to(dtype) if h % 2 == 0 else None
    gxy = torch.randn(b, k, 2, generator=generator).to(a)
    gstd = torch.randn(b, k, generator=generator).to(a)

    maps64, beta64 = maps.double().requires_grad_(), beta.double().requires_grad_()
    expected = softargmax_reference(maps64, beta64, coords, eps)
    loss = (expected.xy * gxy).sum() + (expected.std * gstd).sum() + (0 if gz is None else (expected.heatmap * gz).sum())
    loss.backward()

    heatmap, xy, std, stats = forward(kernels, maps, beta, coords, eps)
    close(heatmap, expected.heatmap.detach(), TOLERANCE[dtype])
    # Coordinates and gradients of beta are float32 for half maps: held to float32's tolerance.
    close(xy, expected.xy.detach(), TOLERANCE[a], size=1)
    close(std, expected.std.detach(), TOLERANCE[a])

    grad, parts, grad_beta = poisoned(*shape, dtype=dtype), poisoned(b, k, dtype=a), poisoned(beta.numel(), dtype=a)
    grads = {"grad_heatmap": gz, "grad_xy": gxy, "grad_std": gstd}
    call(
        kernels,
        "backward",
        maps,
        beta,
        coords,
        eps,
        stats=stats,
        **grads,
        grad_input=grad,
        grad_beta_parts=parts,
        grad_beta=grad_beta,
    )
    close(grad, maps64.grad, TOLERANCE[dtype])
    # The sum cancels: its rounding is that of its terms, of the size of the gradients of single pixels times the logits.
    slack = TOLERANCE[a] * float((maps64.grad * maps64.detach()).abs().sum() / 0.3)
    torch.testing.assert_close(grad_beta.double(), beta64.grad.reshape(-1), rtol=TOLERANCE[a], atol=slack)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 1, 9, 7), (1, 1, 72, 64)], ids=str)
def test_readout_of_normalised_maps(kernels, shape, dtype):
    maps = torch.rand(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    maps64 = maps.double().requires_grad_()
    xy64, std64 = heatmap_readout_reference(maps64, "align_corners", 1e-2)
    gxy, gstd = torch.randn_like(xy64).float(), torch.randn_like(std64).float()
    ((xy64 * gxy).sum() + (std64 * gstd).sum()).backward()

    beta = torch.tensor(math.nan)  # not used
    _, xy, std, stats = forward(kernels, maps, beta, "align_corners", 1e-2, "readout_forward")
    close(xy, xy64.detach(), 1e-5, size=1)
    close(std, std64.detach(), 1e-5)
    grad = poisoned(*shape, dtype=dtype)
    call(
        kernels, "readout_backward", maps, beta, "align_corners", 1e-2, stats=stats, grad_xy=gxy, grad_std=gstd, grad_input=grad
    )
    close(grad, maps64.grad, TOLERANCE[dtype])


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "sliced"])
def test_any_strides(kernels, layout):
    base = torch.randn(2, 3, 12, 10, generator=torch.Generator().manual_seed(2))
    if layout == "channels_last":
        maps = base.contiguous(memory_format=torch.channels_last)
    else:
        maps = base.transpose(-1, -2) if layout == "transposed" else base[:, :, 1::2, 1:8]
    beta = torch.tensor(1.3)
    expected = softargmax_reference(maps.double(), 1.3, "pixel", 0.0)
    heatmap, xy, std, _ = forward(kernels, maps, beta, "pixel", 0.0)
    close(heatmap, expected.heatmap, 1e-5)
    close(xy, expected.xy, 1e-5)
    close(std, expected.std, 1e-5)


@pytest.mark.parametrize("eps", [0.0, 1e-4])
@pytest.mark.parametrize("size", [(8, 8), (66, 64)], ids=str)
def test_bad_maps_stay_confined_and_match_the_reference(kernels, size, eps):
    maps = torch.randn(1, 6, *size, generator=torch.Generator().manual_seed(3))
    maps[0, 1, 2, 3] = math.nan
    maps[0, 2] = -math.inf
    maps[0, 3, 1, 1] = math.inf
    maps[0, 4, :, ::2] = -math.inf
    gxy, gstd = torch.randn(1, 6, 2), torch.randn(1, 6)
    reference = maps.double().requires_grad_()
    expected = softargmax_reference(reference, 0.4, "unit", eps)
    ((expected.xy * gxy).sum() + (expected.std * gstd).sum()).backward()

    heatmap, xy, std, stats = forward(kernels, maps, torch.tensor(0.4), "unit", eps)
    grad, parts = poisoned(*maps.shape, dtype=torch.float32), poisoned(1, 6, dtype=torch.float32)
    call(
        kernels,
        "backward",
        maps,
        torch.tensor(0.4),
        "unit",
        eps,
        stats=stats,
        grad_xy=gxy,
        grad_std=gstd,
        grad_input=grad,
        grad_beta_parts=parts,
    )
    for actual, wanted in ((heatmap, expected.heatmap), (xy, expected.xy), (std, expected.std), (grad, reference.grad)):
        wanted = wanted.detach()
        assert torch.equal(actual.isnan(), wanted.isnan())
        for k in range(6):
            scale = float(wanted[0, k].nan_to_num().abs().max()) or 1.0
            torch.testing.assert_close(actual[0, k].double(), wanted[0, k], rtol=1e-5, atol=1e-5 * scale, equal_nan=True)
    assert torch.isfinite(xy[0, [0, 4, 5]]).all() and torch.isfinite(grad[0, [0, 4, 5]]).all()


def test_a_map_with_one_pixel_has_no_variance_and_no_gradient(kernels):
    maps = torch.full((1, 1, 4, 4), -math.inf)
    maps[0, 0, 2, 1] = 3.0
    _, xy, std, stats = forward(kernels, maps, torch.tensor(1.0), "pixel", 0.0)
    assert xy.tolist() == [[[1.0, 2.0]]] and std.tolist() == [[0.0]]
    grad = poisoned(1, 1, 4, 4, dtype=torch.float32)
    ones = {"grad_xy": torch.ones(1, 1, 2), "grad_std": torch.ones(1, 1)}
    call(kernels, "backward", maps, torch.tensor(1.0), "pixel", 0.0, stats=stats, **ones, grad_input=grad)
    assert not grad.any()


def test_runs_repeat_bit_for_bit(kernels):
    maps = torch.randn(1, 2, 64, 64, generator=torch.Generator().manual_seed(4))
    first, second = (forward(kernels, maps, torch.tensor(0.5)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
