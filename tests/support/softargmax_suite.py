"""The CUDA operators of soft-argmax, run on the CPU, against the float64 reference.

A test module imports these tests and has a fixture `device_code` that puts the operators of ldeq_host behind the backend "cpu":
tests/host runs the CUDA kernels built for the CPU, tests/ptx the PTX that nvcc makes of them.
"""

import math

import pytest
import torch
from torch import Tensor

from ldeq.ops.softargmax import heatmap_readout, softargmax

pytestmark = pytest.mark.usefixtures("device_code")

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
    (1, 1, 24, 40),
    (1, 1, 96, 80),
    (1, 1, 75, 71),
    (1, 1, 130, 128),
]


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def close(actual: Tensor, expected: Tensor, tolerance: float, size: float = 0.0) -> None:
    """Within `tolerance` of the largest entry, or of `size`: coordinates are as exact as their range, also near 0."""
    size = max(float(expected.abs().max()), size) or 1.0
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance * size, equal_nan=True)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_and_backward_against_float64(shape, dtype):
    k, h = shape[1:3]
    maps = (4 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).to(dtype)
    beta = torch.linspace(0.3, 0.7, k, dtype=torch.float64) if k > 1 else torch.tensor(0.4, dtype=torch.float64)
    coords, eps = ("cell_center", 1e-2) if k > 1 else ("unit", 0.0)
    results = []
    for backend, kind in (("cpu", dtype), ("torch", torch.float64)):
        inputs = maps.to(kind).requires_grad_(), beta.clone().requires_grad_()
        out = softargmax(*inputs, coords=coords, eps=eps, backend=backend)
        # Without a gradient of the heatmap, another path runs.
        terms = [o for o in out if h % 2 == 0 or o is not out.heatmap]
        weights = [torch.randn(o.shape, generator=torch.Generator().manual_seed(1)).to(dtype) for o in terms]
        loss = torch.stack([(o.double() * w.double()).sum() for o, w in zip(terms, weights, strict=True)]).sum()
        results.append((*(o.detach() for o in out), *torch.autograd.grad(loss, inputs)))
    (heatmap, xy, std, grad, grad_beta), expected = results
    a = wide(dtype)
    close(heatmap, expected[0], TOLERANCE[dtype])
    # Coordinates and gradients of beta are float32 for half maps: held to float32's tolerance.
    close(xy, expected[1], TOLERANCE[a], size=1)
    close(std, expected[2], TOLERANCE[a])
    close(grad, expected[3], TOLERANCE[dtype])
    # The sum cancels: its rounding is that of its terms, of the size of the gradients of single pixels times the logits.
    slack = TOLERANCE[a] * float((expected[3] * maps.double()).abs().sum() / 0.3)
    torch.testing.assert_close(grad_beta.double(), expected[4], rtol=TOLERANCE[a], atol=slack)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 1, 9, 7), (1, 1, 72, 64)], ids=str)
def test_readout_of_normalised_maps(shape, dtype):
    maps = torch.rand(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    results = []
    for backend, kind in (("cpu", dtype), ("torch", torch.float64)):
        h = maps.to(kind).requires_grad_()
        out = heatmap_readout(h, coords="align_corners", eps=1e-2, backend=backend)
        weights = [torch.randn(o.shape, generator=torch.Generator().manual_seed(2)) for o in out]
        loss = torch.stack([(o.double() * w.double()).sum() for o, w in zip(out, weights, strict=True)]).sum()
        results.append((*(o.detach() for o in out), *torch.autograd.grad(loss, h)))
    (xy, std, grad), expected = results
    close(xy, expected[0], 1e-5, size=1)
    close(std, expected[1], 1e-5)
    close(grad, expected[2], TOLERANCE[dtype])


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "sliced", "unaligned"])
def test_any_strides(layout):
    base = torch.randn(2, 3, 12, 10, generator=torch.Generator().manual_seed(2))
    maps = {
        "channels_last": base.contiguous(memory_format=torch.channels_last),
        "transposed": base.transpose(-1, -2),
        "sliced": base[:, :, 1::2, 1:8],
        "unaligned": base.reshape(-1)[1:577].view(2, 3, 12, 8),
    }[layout]
    results = []
    for backend, kind in (("cpu", torch.float32), ("torch", torch.float64)):
        h = maps.to(kind).requires_grad_()
        assert backend == "torch" or h.stride() == maps.stride()
        out = softargmax(h, 1.3, coords="pixel", backend=backend)
        results.append((*(o.detach() for o in out), *torch.autograd.grad(out.xy.sum() + out.std.sum(), h)))
    for actual, expected in zip(*results, strict=True):
        close(actual, expected, 1e-5)


@pytest.mark.parametrize("eps", [0.0, 1e-4])
@pytest.mark.parametrize("size", [(8, 8), (66, 64)], ids=str)
def test_bad_maps_stay_confined_and_match_the_reference(size, eps):
    maps = torch.randn(1, 6, *size, generator=torch.Generator().manual_seed(3))
    maps[0, 1, 2, 3] = math.nan
    maps[0, 2] = -math.inf
    maps[0, 3, 1, 1] = math.inf
    maps[0, 4, :, ::2] = -math.inf
    gxy, gstd = torch.randn(1, 6, 2), torch.randn(1, 6)
    results = []
    for backend, kind in (("cpu", torch.float32), ("torch", torch.float64)):
        h = maps.to(kind).requires_grad_()
        out = softargmax(h, 0.4, eps=eps, backend=backend)
        results.append((*(o.detach() for o in out), *torch.autograd.grad((out.xy * gxy).sum() + (out.std * gstd).sum(), h)))
    for actual, wanted in zip(*results, strict=True):
        assert torch.equal(actual.isnan(), wanted.isnan())
        for k in range(6):
            scale = float(wanted[0, k].nan_to_num().abs().max()) or 1.0
            torch.testing.assert_close(actual[0, k].double(), wanted[0, k], rtol=1e-5, atol=1e-5 * scale, equal_nan=True)
    _, xy, _, grad = results[0]
    assert torch.isfinite(xy[0, [0, 4, 5]]).all() and torch.isfinite(grad[0, [0, 4, 5]]).all()


def test_a_map_with_one_pixel_has_no_variance_and_no_gradient():
    maps = torch.full((1, 1, 4, 4), -math.inf)
    maps[0, 0, 2, 1] = 3.0
    maps.requires_grad_()
    out = softargmax(maps, 1.0, coords="pixel", backend="cpu")
    assert out.xy.tolist() == [[[1.0, 2.0]]] and out.std.tolist() == [[0.0]]
    assert not torch.autograd.grad(out.xy.sum() + out.std.sum(), maps)[0].any()


def test_runs_repeat_bit_for_bit_with_or_without_the_heatmap():
    maps = torch.randn(1, 2, 64, 64, generator=torch.Generator().manual_seed(4))
    first, second = (softargmax(maps, 0.5, backend="cpu") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    without = softargmax(maps, 0.5, heatmap=False, backend="cpu")
    assert without.heatmap.numel() == 0 and torch.equal(without.xy, first.xy) and torch.equal(without.std, first.std)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_results_are_laid_out_as_those_of_the_cpu_operators(dtype, cpu_operators):
    """Shapes, dtypes and what `stats` means: a forward pass of the one serves a backward pass of the other."""
    maps = torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(5)).to(dtype)
    beta = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    axes = (0.5, 0.1, 0.25, -1.0)
    arguments = (maps, beta, 1.0, 1e-2, *axes)
    device, cpu = torch.ops.ldeq_host.softargmax_forward(*arguments, True), cpu_operators.softargmax_forward(*arguments, True)
    for got, wanted in zip(device, cpu, strict=True):
        assert got.dtype == wanted.dtype and got.shape == wanted.shape
        close(got, wanted.double(), TOLERANCE[dtype] if got.shape == maps.shape else TOLERANCE[wide(dtype)], size=1)
    grads = (None, torch.randn_like(cpu[1]), None)
    got = torch.ops.ldeq_host.softargmax_backward(*grads, maps, beta, 1.0, cpu[3], *axes)
    wanted = cpu_operators.softargmax_backward(*grads, maps, beta, 1.0, device[3], *axes)
    for a, b in zip(got, wanted, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        close(a, b.double(), TOLERANCE[dtype])


@pytest.mark.parametrize("empty", [(0, 3, 4, 4), (2, 0, 4, 4)], ids=str)
def test_no_maps_at_all(empty):
    maps = torch.zeros(empty, requires_grad=True)
    out = softargmax(maps, 0.5, backend="cpu")
    assert out.heatmap.shape == empty and out.xy.shape == (*empty[:2], 2)
    assert torch.autograd.grad(out.xy.sum(), maps)[0].shape == empty


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(2, 3, 4)}, "logits must have shape"),
        ({"logits": torch.zeros(2, 3, 4, 5, dtype=torch.int64)}, "logits must be float32, float64"),
        ({"logits": torch.zeros(1, 1, 1, 1).expand(1, 3, 40_000, 40_000)}, "logits has larger maps"),
        ({"betas": torch.zeros(3)}, "betas must be float64"),
        ({"betas": torch.zeros(2, dtype=torch.float64)}, "betas must have shape"),
    ],
    ids=["dimensions", "integers", "too large", "beta's dtype", "beta's shape"],
)
def test_errors_name_the_argument(change, message):
    given = {"logits": torch.zeros(2, 3, 4, 5), "betas": torch.tensor(1.0, dtype=torch.float64)} | change
    with pytest.raises(RuntimeError, match=message):
        torch.ops.ldeq_host.softargmax_forward(*given.values(), 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, False)


def test_errors_of_the_backward_pass_name_the_argument():
    maps, stats = torch.zeros(2, 3, 4, 5), torch.zeros(2, 3, 8, dtype=torch.float64)
    one = torch.tensor(1.0, dtype=torch.float64)
    for grads, given, message in (
        ((None, torch.zeros(2, 3), None), stats, "grad_xy has another shape"),
        ((torch.zeros(2, 3, 4, 5).double(), None, None), stats, "grad_heatmap has another dtype"),
        ((None, None, None), stats.float(), "stats has another dtype"),
    ):
        with pytest.raises(RuntimeError, match=message):
            torch.ops.ldeq_host.softargmax_backward(*grads, maps, one, 1.0, given, 1.0, 0.0, 1.0, 0.0)
