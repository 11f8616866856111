"""Compiled soft-argmax and readout on the target of this run, against the reference in float64 on the CPU."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from native import Calls
from torch import Tensor

from ldeq.ops import BackendError
from ldeq.ops.softargmax import COORDS, heatmap_normalise, heatmap_readout, softargmax

# Relative to the largest entry. float32: a few hundred roundings of 6e-8. Half types: the rounding of the output.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
# One for each launch shape and its limits, odd sizes that forbid vectors, single rows, columns and pixels.
SHAPES = [
    (2, 3, 8, 8),
    (1, 2, 7, 5),
    (1, 2, 1, 9),
    (1, 1, 13, 1),
    (1, 1, 1, 1),
    (1, 2, 64, 64),
    (1, 1, 75, 71),
    (1, 1, 129, 130),
]


def close(actual: Tensor, expected: Tensor, tolerance: float, size: float = 0.0) -> None:
    """Within `tolerance` of the largest entry, or of `size`: coordinates are as exact as their range, also near 0."""
    expected = expected.detach()
    size = max(float(expected.nan_to_num(0, 0, 0).abs().max()), size) or 1.0
    torch.testing.assert_close(actual.detach().cpu().double(), expected, rtol=tolerance, atol=tolerance * size, equal_nan=True)


def run(target, maps: Tensor, beta: Tensor, weights, coords: str, eps: float, heatmap: bool):
    """(heatmap, xy, std, gradient of maps, gradient of beta)."""
    device = "cpu" if target is None else target.device
    maps, beta = maps.to(device).requires_grad_(), beta.to(device).requires_grad_()
    out = softargmax(maps, beta, coords=coords, eps=eps, heatmap=heatmap, backend="torch" if target is None else target.backend)
    gz, gxy, gstd = (w.to(device) for w in weights)
    loss = (out.xy.double() * gxy).sum() + (out.std.double() * gstd).sum()
    if heatmap:
        loss = loss + (out.heatmap.double() * gz).sum()
    return (*out, *torch.autograd.grad(loss, (maps, beta)))


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_and_backward_against_float64(target, shape, dtype):
    generator = torch.Generator().manual_seed(0)
    b, k, h, w = shape
    maps = (4 * torch.randn(shape, generator=generator)).to(dtype)
    learned, heatmap = k > 1, h % 2 == 0
    beta = torch.linspace(0.3, 0.7, k, dtype=torch.float64) if learned else torch.tensor(0.4, dtype=torch.float64)
    coords, eps = COORDS[(h + w) % 4], (0.0, 1e-2)[k % 2]
    weights = [torch.randn(s, generator=generator).to(dtype).double() for s in (shape, (b, k, 2), (b, k))]
    expected = run(None, maps.double(), beta, weights, coords, eps, heatmap)
    actual = run(target, maps, beta, weights, coords, eps, heatmap)
    if heatmap:
        close(actual[0], expected[0], TOLERANCE[dtype])
    else:
        assert actual[0].numel() == 0
    assert actual[1].dtype == actual[2].dtype == torch.float32
    # Deviations in pixels: a map of one pixel has none at all.
    close(actual[1], expected[1], 1e-5, size=1)
    close(actual[2], expected[2], 1e-5)
    close(actual[3], expected[3], TOLERANCE[dtype])
    # The sum cancels: its rounding is that of its terms, of the size of the gradients of single pixels times the logits.
    slack = 1e-5 * float((expected[3] * maps.detach().double()).abs().sum() / 0.3)
    torch.testing.assert_close(actual[4].cpu(), expected[4], rtol=1e-5, atol=slack)


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (132, 128)], ids=str)
def test_readout_of_normalised_maps(target, size):
    maps = torch.rand(1, 2, *size, generator=torch.Generator().manual_seed(1))
    results = []
    for z, backend in ((maps.double(), "torch"), (maps.to(target.device), target.backend)):
        z.requires_grad_()
        out = heatmap_readout(z, coords="align_corners", eps=1e-2, backend=backend)
        results.append((*out, *torch.autograd.grad(out.xy[..., 0].sum() - 2 * out.xy[..., 1].sum() + out.std.sum(), z)))
    for actual, expected, range_ in zip(results[1], results[0], (1, 0, 0), strict=True):
        close(actual, expected, 1e-5, size=range_)


@pytest.mark.parametrize("layout", ["channels_last", "transposed", "sliced", "expanded"])
def test_any_strides(target, layout):
    maps = torch.randn(2, 3, 12, 10, generator=torch.Generator().manual_seed(2)).to(target.device)
    maps = {
        "channels_last": lambda: maps.contiguous(memory_format=torch.channels_last),
        "transposed": lambda: maps.transpose(-1, -2),
        "sliced": lambda: maps[:, :, 1::2, 1:8],
        "expanded": lambda: maps[:1].expand(3, 3, 12, 10),
    }[layout]()
    results = []
    for h, backend in ((maps.detach().cpu().double(), "torch"), (maps.detach(), target.backend)):
        h.requires_grad_()
        out = softargmax(h, 1.3, coords="pixel", backend=backend)
        results.append((*out, *torch.autograd.grad(out.xy.sum() + out.heatmap.square().sum(), h)))
    for actual, expected in zip(results[1], results[0], strict=True):
        close(actual, expected, 1e-5)


@pytest.mark.parametrize("eps", [0.0, 1e-4])
@pytest.mark.parametrize("size", [(8, 8), (130, 128)], ids=str)
def test_bad_maps_stay_confined_and_match_the_reference(target, size, eps):
    maps = torch.randn(1, 6, *size, generator=torch.Generator().manual_seed(3))
    maps[0, 1, 2, 3] = math.nan
    maps[0, 2] = -math.inf
    maps[0, 3, 1, 1] = math.inf
    maps[0, 4, :, ::2] = -math.inf
    results = []
    for h, backend in ((maps.double(), "torch"), (maps.to(target.device), target.backend)):
        h.requires_grad_()
        out = softargmax(h, 0.4, eps=eps, backend=backend)
        results.append((*out, *torch.autograd.grad(out.xy.sum() - 3 * out.std.sum(), h)))
    for name, actual, expected in zip(("heatmap", "xy", "std", "grad"), results[1], results[0], strict=True):
        # What 0 / 0 and inf hand back is not defined.
        for k in ((0, 1, 2, 4, 5) if eps else (0, 1, 4, 5)) if name == "grad" else range(6):
            assert torch.equal(actual[0, k].isnan().cpu(), expected[0, k].isnan()), (name, k)
            close(actual[0, k], expected[0, k], 1e-5)
        assert torch.isfinite(actual[0, [0, 4, 5]]).all()


def test_runs_repeat_bit_for_bit_and_neighbours_do_not_matter(target):
    generator = torch.Generator().manual_seed(4)
    maps = torch.randn(3, 2, 33, 35, generator=generator).to(target.device)
    weights = [torch.randn(s, generator=generator) for s in ((3, 2, 33, 35), (3, 2, 2), (3, 2))]
    beta = torch.tensor(0.7, dtype=torch.float64)
    first, again = (run(target, maps.detach(), beta, weights, "unit", 1e-4, True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    alone = run(target, maps.detach()[1:2], beta, [w[1:2] for w in weights], "unit", 1e-4, True)
    assert all(torch.equal(a[1:2], b) for a, b in zip(first[:4], alone[:4], strict=True))


def test_an_empty_batch(target):
    out = softargmax(torch.zeros(0, 3, 4, 5, device=target.device))
    assert (out.heatmap.shape, out.xy.shape, out.std.shape) == ((0, 3, 4, 5), (0, 3, 2), (0, 3))


def test_which_kernels_run(target):
    maps = torch.randn(1, 2, 8, 8, device=target.device, requires_grad=True)
    with Calls() as calls:
        out = softargmax(maps)
        (out.xy.sum() + heatmap_readout(out.heatmap).std.sum()).backward()
    names = ("softargmax_forward", "heatmap_readout_forward", "heatmap_readout_backward", "softargmax_backward")
    assert calls.names == [name + target.suffix for name in names]
    if target.backend == "triton":
        from ldeq.ops import triton_kernels

        # The table that the launch reads: both ways are among `SHAPES`.
        assert {triton_kernels.softargmax.launch_shape(h * w)[0] for _, _, h, w in SHAPES} == {True, False}


def test_opcheck(target):
    if target.backend == "cpu":
        pytest.skip("tests/ops does this for the C++ kernels")
    maps = torch.randn(2, 3, 6, 7, device=target.device, requires_grad=True)
    beta = torch.tensor(0.5, dtype=torch.float64, device=target.device, requires_grad=True)
    axes = (1.0, 0.0, 1.0, 0.0)
    for want, betas in itertools.product((True, False), (beta, None)):
        torch.library.opcheck(target.operator("softargmax_forward"), (maps, betas, 0.7, 1e-4, *axes, want))
    torch.library.opcheck(target.operator("heatmap_readout_forward"), (maps.detach().exp().requires_grad_(), 1e-4, *axes))
    for betas in (beta.detach(), None):
        z, xy, std, stats = target.operator("softargmax_forward")(maps.detach(), betas, 0.7, 0.0, *axes, True)
        given = (z, xy, None, maps.detach(), betas, 0.7, stats, *axes)
        torch.library.opcheck(target.operator("softargmax_backward"), given)
    torch.library.opcheck(target.operator("heatmap_readout_backward"), (xy, std, z, stats, *axes))


def test_compiles_without_graph_breaks(target):
    def loss(h, beta):
        out = softargmax(h, beta, eps=1e-4)
        return out.xy.sum() + out.std.sum() + heatmap_readout(out.heatmap, eps=1e-4).xy.sum()

    h = torch.randn(2, 3, 8, 8, device=target.device, requires_grad=True)
    beta = torch.tensor(0.4, device=target.device, requires_grad=True)
    names: list[str] = []

    def recorded(graph, inputs):
        names.extend(str(node.target) for node in graph.graph.nodes)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    compiled = torch.compile(loss, fullgraph=True, backend=recorded)
    expected = torch.autograd.grad(loss(h, beta), (h, beta))
    actual = torch.autograd.grad(compiled(h, beta), (h, beta))
    assert f"ldeq.softargmax_forward{target.suffix}.default" in names or f"ldeq.softargmax_forward{target.suffix}" in names
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e)


def test_second_derivatives_are_those_of_the_reference(target):
    torch.manual_seed(11)
    logits, direction = (torch.randn(1, 2, 5, 4, device=target.device) for _ in range(2))
    found = []
    for backend in (None, "torch"):
        h = logits.clone().requires_grad_()
        betas = torch.tensor([0.7, 1.2], dtype=torch.float64, device=target.device, requires_grad=True)
        out = softargmax(h, betas, backend=backend)
        loss = out.xy.square().sum() + heatmap_readout(out.heatmap, backend=backend).std.sum()
        (grad,) = torch.autograd.grad(loss, h, create_graph=True)
        found.append(torch.autograd.grad((grad * direction).sum(), (h, betas)))
    for got, wanted in zip(*found, strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_beta_is_the_same_as_a_number_and_as_a_tensor(target, dtype):
    torch.manual_seed(12)
    logits, grad = (torch.randn(3, 4, 9, 7).to(target.device, dtype) for _ in range(2))
    logits.requires_grad_()
    found = []
    for beta in (0.3, torch.tensor(0.3, dtype=torch.float64), torch.full((4,), 0.3, dtype=torch.float64)):
        beta = beta.to(target.device) if isinstance(beta, torch.Tensor) else beta
        out, alone = softargmax(logits, beta, eps=1e-4), heatmap_normalise(logits, beta)
        assert torch.equal(alone, out.heatmap)
        found.append((*out, torch.autograd.grad((alone, out.xy), logits, (grad, torch.ones_like(out.xy)))[0]))
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            assert torch.equal(one, same)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": torch.zeros(3, 4, 5)}, r"logits must have shape \(B, K, H, W\)"),
        ({"logits": torch.zeros(1, 3, 4, 5, dtype=torch.int32)}, "must be float32"),
        ({"betas": torch.ones(())}, "betas"),
        ({"betas": torch.ones(4, dtype=torch.float64)}, r"betas must have shape \(\) or \(K,\)"),
    ],
    ids=["shape", "dtype", "betas dtype", "betas shape"],
)
def test_operators_name_the_wrong_argument(target, changes, message):
    given = {"logits": torch.zeros(1, 3, 4, 5), "betas": torch.ones((), dtype=torch.float64)} | changes
    with pytest.raises(RuntimeError, match=message):
        target.operator("softargmax_forward")(
            *(t.to(target.device) for t in given.values()), 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, True
        )


def test_what_the_backend_does_not_serve(target):
    if target.backend != "triton":
        pytest.skip("the C++ and CUDA kernels serve every floating-point type")
    with pytest.raises(BackendError, match=r"'triton' cannot run 'softargmax': it does not serve torch.float64"):
        softargmax(torch.zeros(1, 1, 2, 2, dtype=torch.float64, device=target.device))
    # An automatic choice goes on to the next backend.
    softargmax(torch.zeros(1, 1, 2, 2, dtype=torch.float64, device=target.device), backend="auto")
