"""The compiled soft-argmax against the reference in float64, in every dtype, shape and layout it takes."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import pytest
import torch
from native import Calls, needs_library
from torch import Tensor
from torch.autograd import forward_ad

import ldeq
from ldeq.ops.softargmax import COORDS, heatmap_normalise, heatmap_readout, softargmax

pytestmark = needs_library

# Relative to the size of the map: float32 sums over up to 512 x 512 pixels; half types round heatmap and gradient once.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-3}
# 32, 64 and 128 columns are 2, 4 and 8 vectors of AVX-512, which have loops of their own; 56 ends in half a vector.
SHAPES = [(1, 1), (1, 7), (5, 1), (3, 17), (16, 16), (33, 31), (35, 32), (56, 56), (64, 64), (9, 128), (512, 512)]


def close(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    error = (actual.double() - expected).abs().max().item()
    assert error <= TOLERANCE[dtype] * max(expected.abs().max().item(), 1e-3), error


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_and_backward_equal_the_float64_reference(shape, dtype):
    torch.manual_seed(0)
    logits = (3 * torch.randn(2, 3, *shape)).to(dtype)
    weights = torch.randn_like(logits) / shape[0] / shape[1]
    every = itertools.product(COORDS, (0.0, 1e-4)) if shape[0] < 100 else [("unit", 1e-4)]
    for coords, eps in every:
        results = []
        for backend, kind in (("cpu", dtype), ("torch", torch.float64)):
            h = logits.to(kind).detach().requires_grad_()
            beta = torch.tensor([0.3, 0.7, 1.1], dtype=torch.float64, requires_grad=True)
            out = softargmax(h, beta, coords=coords, eps=eps, backend=backend)
            scale = 1.0 if coords != "pixel" else 1 / max(shape)
            loss = (
                (out.heatmap.double() * weights.double()).sum()
                + scale * (out.xy.double() * torch.tensor([1.0, -2.0])).sum()
                + scale * out.std.double().sum()
            )
            results.append((*out, *torch.autograd.grad(loss, (h, beta))))
        for actual, expected in zip(*results, strict=True):
            close(actual, expected, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_readout_equals_the_float64_reference(dtype):
    torch.manual_seed(1)
    z = torch.rand(2, 3, 19, 37).to(dtype)
    results = []
    for backend, kind in (("cpu", dtype), ("torch", torch.float64)):
        h = z.to(kind).requires_grad_()
        out = heatmap_readout(h, coords="unit", eps=1e-4, backend=backend)
        results.append((*out, *torch.autograd.grad(out.xy.double().sum() + out.std.double().sum(), h)))
    for actual, expected in zip(*results, strict=True):
        close(actual, expected, dtype)


@pytest.mark.parametrize("width", [20, 32, 64, 128])
def test_without_heatmap_the_coordinates_and_gradients_are_the_same(width):
    logits = torch.randn(2, 3, 20, width, requires_grad=True)
    with_map, without = (softargmax(logits, 0.4, heatmap=wanted, backend="cpu") for wanted in (True, False))
    assert without.heatmap.numel() == 0 and torch.equal(with_map.xy, without.xy) and torch.equal(with_map.std, without.std)
    grads = [torch.autograd.grad(out.xy.sum() + out.std.sum(), logits)[0] for out in (with_map, without)]
    assert torch.equal(*grads)


@pytest.mark.parametrize("layout", ["transposed", "sliced", "channels_last", "expanded"])
def test_any_strides(layout):
    x = torch.randn(2, 4, 12, 18)
    strided = {
        "transposed": x.transpose(2, 3),
        "sliced": x[:, ::2, 1:, ::3],
        "channels_last": x.contiguous(memory_format=torch.channels_last),
        "expanded": x[:1].expand(3, 4, 12, 18),
    }[layout]
    for actual, expected in zip(
        softargmax(strided, backend="cpu"), softargmax(strided.contiguous(), backend="cpu"), strict=True
    ):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_nan_and_infinity_stay_in_their_map(dtype):
    clean = torch.randn(1, 5, 9, 11, dtype=dtype)
    logits = clean.clone()
    logits[0, 1, 4, 4] = torch.nan
    logits[0, 2] = -torch.inf
    logits[0, 3, 0, 0] = torch.inf
    logits[0, 4, 2:, :] = -torch.inf
    for eps in (0.0, 1e-4):
        results = []
        for backend in ("cpu", "torch"):
            h = logits.clone().requires_grad_()
            out = softargmax(h, 0.5, eps=eps, backend=backend)
            (grad,) = torch.autograd.grad(out.xy.sum() + out.std.sum() + out.heatmap.sum(), h)
            results.append((*out, grad[:, [0, 4]]))
        for actual, expected in zip(*results, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6, equal_nan=True)
        alone = softargmax(clean[:, :1], 0.5, eps=eps, backend="cpu")
        assert torch.equal(results[0][1][:, :1], alone.xy)


def test_one_bright_pixel_has_no_deviation_and_a_finite_gradient():
    logits = torch.zeros(1, 1, 8, 8)
    logits[0, 0, 3, 5] = 1e4
    logits.requires_grad_()
    out = softargmax(logits, backend="cpu", coords="pixel")
    assert out.xy.tolist() == [[[5, 3]]] and out.std.item() == 0
    assert torch.isfinite(torch.autograd.grad(out.std.sum() + out.xy.sum(), logits)[0]).all()


@pytest.mark.parametrize("width", [61, 64])
@pytest.mark.parametrize("beta", [0.0, -0.3, 1e-38, 1e-31, 1e-29, 1e-3, 20.0, 1e29, 1e31, 1e38])
def test_a_beta_of_any_size_weighs_as_the_reference_does(beta, width):
    torch.manual_seed(2)
    logits = torch.randn(1, 4, 8, width)
    logits[0, 1, 3] = -torch.inf
    logits[0, 2, :, ::2] = -3e38
    results = []
    for backend in ("cpu", "torch"):
        h = logits.clone().requires_grad_()
        out = softargmax(h, beta, eps=1e-4, backend=backend)
        results.append((*out, *torch.autograd.grad(out.xy.sum() + out.std.sum() + out.heatmap[..., 5].sum(), h)))
    for actual, expected in zip(*results, strict=True):
        # 1 is the width of the map; gradients are as small as beta.
        scale = 1.0 if actual.shape != logits.shape else max(expected[expected.isfinite()].abs().max().item(), 1e-30)
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=2e-6 * scale, equal_nan=True)


def test_pixels_far_below_the_peak_weigh_nothing():
    logits = torch.full((1, 1, 4, 64), -1000.0)
    logits[0, 0, 2, 7] = 0
    out = softargmax(logits, 0.4, coords="pixel", backend="cpu")
    assert out.xy.tolist() == [[[7, 2]]] and out.heatmap.count_nonzero() == 1


def test_exp_is_within_two_units_in_the_last_place():
    # One map of one row per exponent: beta (h - max h) = h where the maximum is 0.
    h = torch.cat((torch.linspace(-103, 0, 200_003), torch.tensor([0.0])))
    z = softargmax(h.reshape(1, 1, 1, -1), backend="cpu").heatmap.flatten()
    exact = torch.exp(h.double())
    ulp = torch.clamp(2.0 ** (torch.floor(torch.log2(exact)) - 23), min=2.0**-149)
    assert ((z.double() - exact).abs() / ulp).max() <= 2
    exact = torch.exp(h.double() * 7)
    z = softargmax(h.double().reshape(1, 1, 1, -1), 7.0, backend="cpu").heatmap.flatten()
    assert ((z - exact).abs() <= 4e-16 * exact + 1e-323).all()


def test_gradcheck():
    torch.manual_seed(2)
    logits = torch.randn(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    beta = torch.tensor([0.6, 1.4], dtype=torch.float64, requires_grad=True)
    for coords in COORDS:
        torch.autograd.gradcheck(lambda h, b, c=coords: softargmax(h, b, coords=c, eps=1e-2, backend="cpu"), (logits, beta))
        z = torch.rand(2, 2, 4, 5, dtype=torch.float64, requires_grad=True)
        torch.autograd.gradcheck(lambda h, c=coords: heatmap_readout(h, coords=c, eps=1e-2, backend="cpu"), (z,))


@pytest.mark.parametrize("coords", COORDS)
def test_second_derivatives(coords):
    torch.manual_seed(6)
    logits, z = (torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    betas = torch.tensor([0.6, 1.4], dtype=torch.float64, requires_grad=True)
    options = {"coords": coords, "eps": 1e-2, "backend": "cpu"}
    check = torch.autograd.gradgradcheck
    check(lambda h, b: softargmax(h, b, **options), (logits, betas))
    check(lambda h: softargmax(h, 0.7, heatmap=False, **options)[1:], (logits,))
    check(lambda b: softargmax(logits.detach(), b, **options).xy, (betas,))
    check(lambda h: heatmap_normalise(h, 0.7, backend="cpu"), (logits,))
    check(lambda z: heatmap_readout(z.exp(), **options), (z,))


def test_a_backward_operator_alone_has_no_derivative():
    maps, grad = torch.randn(1, 1, 4, 4), torch.randn(1, 1, 2, requires_grad=True)
    axes = (1.0, 0.0, 1.0, 0.0)
    stats = torch.ops.ldeq.softargmax_forward(maps, None, 1.0, 0.0, *axes, False)[3]
    out, _ = torch.ops.ldeq.softargmax_backward(None, grad, None, maps, None, 1.0, stats, *axes)
    with pytest.raises(NotImplementedError, match="differentiate softargmax"):
        out.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_a_beta_is_the_same_as_a_number_and_as_a_tensor(dtype):
    torch.manual_seed(7)
    logits = torch.randn(3, 4, 9, 7).to(dtype).requires_grad_()
    grad = torch.randn(3, 4, 9, 7).to(dtype)
    found = []
    for beta in (0.3, torch.tensor(0.3, dtype=torch.float64), torch.full((4,), 0.3, dtype=torch.float64)):
        out = softargmax(logits, beta, eps=1e-4, backend="cpu")
        alone = heatmap_normalise(logits, beta, backend="cpu")
        assert torch.equal(alone, out.heatmap)
        found.append((*out, torch.autograd.grad((alone, out.xy), logits, (grad, torch.ones_like(out.xy)))[0]))
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            assert torch.equal(one, same)


def test_a_number_costs_no_tensor_and_no_sum():
    """On a GPU each would be a launch."""
    logits = torch.randn(1, 2, 8, 8, requires_grad=True)
    with Calls(every=True) as calls:
        out = softargmax(logits, 0.3, heatmap=False)
        torch.autograd.grad(out.xy, logits, torch.ones_like(out.xy))
    launches = [name for name in calls.names if name != "detach"]
    assert launches == ["softargmax_forward", "ones_like", "softargmax_backward"]


def test_tangents_are_not_lost():
    """`torch.library` knows no forward-mode derivative: the compiled operator would return none, without a word."""
    torch.manual_seed(4)
    h, along = torch.randn(2, 1, 3, 6, 5, dtype=torch.float64)
    beta, step = torch.tensor(0.7, dtype=torch.float64), 1e-6

    def read(h, beta):
        out = softargmax(h, beta, eps=1e-3)
        return out.xy + heatmap_readout(out.heatmap).xy

    def quotient(dh, dbeta):
        return (read(h + step * dh, beta + step * dbeta) - read(h - step * dh, beta - step * dbeta)) / (2 * step)

    _, by_map = torch.func.jvp(lambda h: read(h, beta), (h,), (along,))
    torch.testing.assert_close(by_map, quotient(along, 0), rtol=1e-6, atol=1e-9)
    with forward_ad.dual_level():
        by_beta = forward_ad.unpack_dual(read(h, forward_ad.make_dual(beta, torch.ones_like(beta)))).tangent
    torch.testing.assert_close(by_beta, quotient(0, 1), rtol=1e-6, atol=1e-9)
    with pytest.raises(ldeq.ops.BackendError, match="'cpu'.*forward-mode.*'auto'"):
        torch.func.jvp(lambda h: softargmax(h, backend="cpu").xy, (h,), (along,))


def test_transforms_of_torch_func_run():
    many = torch.randn(4, 1, 3, 6, 5, dtype=torch.float64)
    read = lambda h: softargmax(h, 0.7).xy.square().sum()  # noqa: E731
    mapped = torch.func.vmap(torch.func.grad(read))(many)
    for h, actual in zip(many, mapped, strict=True):
        h.requires_grad_()
        torch.testing.assert_close(actual, torch.autograd.grad(read(h), h)[0])


def test_opcheck():
    logits = torch.randn(2, 3, 6, 7, requires_grad=True)
    beta = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    axes = (1.0, 0.0, 1.0, 0.0)
    for want, betas in itertools.product((True, False), (beta, None)):
        torch.library.opcheck(torch.ops.ldeq.softargmax_forward, (logits, betas, 0.7, 1e-4, *axes, want))
    torch.library.opcheck(torch.ops.ldeq.heatmap_readout_forward, (logits.detach().exp().requires_grad_(), 1e-4, *axes))
    for betas in (beta.detach(), None):
        z, xy, std, stats = torch.ops.ldeq.softargmax_forward(logits.detach(), betas, 0.7, 0.0, *axes, True)
        arguments = (z, xy, None, logits.detach(), betas, 0.7, stats, *axes)
        torch.library.opcheck(torch.ops.ldeq.softargmax_backward, arguments)
    torch.library.opcheck(torch.ops.ldeq.heatmap_readout_backward, (xy, std, z, stats, *axes))


def test_compiles_without_graph_breaks():
    def loss(h, beta):
        out = softargmax(h, beta, coords="unit", eps=1e-4)
        return out.xy.sum() + out.std.sum() + heatmap_readout(out.heatmap, eps=1e-4).xy.sum()

    h, beta = torch.randn(2, 3, 8, 8, requires_grad=True), torch.tensor(0.4, requires_grad=True)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(loss(h, beta), (h, beta))
    for actual, e in zip(torch.autograd.grad(compiled(h, beta), (h, beta)), expected, strict=True):
        torch.testing.assert_close(actual, e)


def test_the_compiled_path_is_the_one_that_runs():
    logits = torch.randn(1, 2, 8, 8, requires_grad=True)
    with Calls() as calls:
        out = softargmax(logits)
        (out.xy.sum() + heatmap_readout(out.heatmap).std.sum()).backward()
    assert calls.names == [
        "softargmax_forward",
        "heatmap_readout_forward",
        "heatmap_readout_backward",
        "softargmax_backward",
    ]
    with ldeq.ops.use_backend("torch"), Calls() as calls:
        softargmax(logits)
    assert calls.names == []


def test_same_bits_for_any_number_of_threads_and_any_neighbours():
    torch.manual_seed(3)
    logits = torch.randn(4, 5, 64, 64)
    threads = torch.get_num_threads()
    try:
        results = []
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            h = logits.clone().requires_grad_()
            out = softargmax(h, 0.4, backend="cpu")
            results.append((*out, *torch.autograd.grad(out.xy.sum() + out.heatmap.sum(), h)))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    assert torch.equal(softargmax(logits[2:3], 0.4, backend="cpu").xy, results[0][1][2:3])


@pytest.mark.parametrize("isa", ["baseline", "avx2"])
def test_the_other_instruction_sets_give_the_same(isa):
    code = (
        "import torch, ldeq\n"
        "h = torch.randn(2, 3, 21, 35, generator=torch.Generator().manual_seed(0))\n"
        "for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):\n"
        "    x = h.to(dtype).requires_grad_()\n"
        "    out = ldeq.ops.softargmax(x, 0.7, eps=1e-4, backend='cpu')\n"
        "    grad, = torch.autograd.grad(out.xy.sum() + out.std.sum() + out.heatmap.sum(), x)\n"
        "    y = h.to(dtype).double().requires_grad_()\n"
        "    ref = ldeq.ops.softargmax(y, 0.7, eps=1e-4, backend='torch')\n"
        "    ref_grad, = torch.autograd.grad(ref.xy.sum() + ref.std.sum() + ref.heatmap.sum(), y)\n"
        "    for a, b in zip((*out, grad), (*ref, ref_grad)):\n"
        "        assert (a - b).abs().max() <= (1e-5 if dtype.itemsize > 2 else 1e-2) * b.abs().max(), dtype\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "LDEQ_CPU_ISA": isa})


def test_errors_name_the_argument():
    with pytest.raises(TypeError, match="logits must be floating point"):
        softargmax(torch.zeros(1, 1, 2, 2, dtype=torch.int32))
    with pytest.raises(ValueError, match="heatmap must have shape"):
        heatmap_readout(torch.zeros(3, 3))
    with pytest.raises(ldeq.ops.BackendError, match="cpu"):
        softargmax(torch.zeros(1, 1, 2, 2, device="meta"), backend="cpu")
    for operator, options in ((torch.ops.ldeq.heatmap_readout_forward, ()), (torch.ops.ldeq.softargmax_forward, (None, 1.0))):
        last = (True,) if options else ()
        with pytest.raises(RuntimeError, match="must have shape"):
            operator(torch.zeros(3, device="meta"), *options, 0.0, 1.0, 0.0, 1.0, 0.0, *last)
    with pytest.raises(RuntimeError, match="stats"):
        torch.ops.ldeq.heatmap_readout_backward(None, None, torch.zeros(1, 1, 2, 2), torch.zeros(1), 1.0, 0.0, 1.0, 0.0)


def test_maps_of_a_size_that_overflows_are_refused() -> None:
    """The product of height and width was 0, and the process ended by a division."""
    none = torch.empty(0, 1, 1, 1).expand(0, 1, 2**32, 2**32)
    with pytest.raises(RuntimeError, match=r"at most 2\^40 pixels"):
        torch.ops.ldeq.softargmax_forward(none, None, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, False)
