from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ldeq.ops import available_backends, heatmap_normalise, heatmap_readout, softargmax
from ldeq.ops.softargmax import COORDS

SHAPES = [(1, 1), (1, 7), (9, 1), (3, 5), (17, 64), (64, 64)]
EPS = [0.0, 1e-4]
# What serves a tensor on the CPU; every backend answers to the same float64 sums.
BACKENDS = [name for name in ("cpu", "torch") if available_backends()[name] == "available"]

each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_coords = pytest.mark.parametrize("coords", COORDS)
each_eps = pytest.mark.parametrize("eps", EPS)
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def grid(coords: str, n: int) -> np.ndarray:
    """Where the n pixels of an axis lie, written down from each library's own documentation."""
    if coords == "unit":  # mmpose: i / W
        return np.arange(n) / n
    if coords == "align_corners":  # kornia: linspace(-1, 1)
        return np.linspace(-1, 1, n) if n > 1 else np.zeros(1)
    if coords == "cell_center":  # dsntnn: (2 i - (n + 1)) / n with i from 1
        return (2 * np.arange(1, n + 1) - (n + 1)) / n
    return np.arange(n, dtype=float)


def column(coords: str, width: int) -> float:
    """The length of one column; where the corners are aligned, a single one has none."""
    if coords == "align_corners":
        return 2 / (width - 1) if width > 1 else 0.0
    return {"unit": 1 / width, "pixel": 1.0, "cell_center": 2 / width}[coords]


def oracle(logits: Tensor, beta: float | Tensor, coords: str, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Heatmap, xy and std by plain sums in float64, map by map."""
    h = logits.detach().double().numpy()
    height, width = h.shape[-2:]
    betas = torch.as_tensor(beta, dtype=torch.float64).expand(h.shape[1]).numpy()
    z, xy, std = np.empty_like(h), np.empty((*h.shape[:2], 2)), np.empty(h.shape[:2])
    for b, k in np.ndindex(h.shape[:2]):
        z[b, k] = np.exp(betas[k] * (h[b, k] - h[b, k].max()))
        p = z[b, k] / (z[b, k].sum() + eps)
        xy[b, k] = (p * grid(coords, width)[None, :]).sum(), (p * grid(coords, height)[:, None]).sum()
        columns, rows = np.arange(width)[None, :], np.arange(height)[:, None]
        spread = p * ((columns - (p * columns).sum()) ** 2 + (rows - (p * rows).sum()) ** 2)
        std[b, k] = np.sqrt(spread.sum() / 2) * column(coords, width)
    return torch.from_numpy(z), torch.from_numpy(xy), torch.from_numpy(std)


def close(got: Tensor, want: Tensor, rtol: float, atol: float = 0.0) -> None:
    torch.testing.assert_close(got.detach().double(), want.detach().double(), rtol=rtol, atol=atol)


def logits_of(shape: tuple[int, int], dtype: torch.dtype = torch.float64, seed: int = 0, maps: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(2, maps, *shape, generator=generator, dtype=torch.float64)).to(dtype)


def rounding(dtype: torch.dtype, shape: tuple[int, int]) -> tuple[float, float]:
    """Sums of n terms, each right to a rounding, in units of at most n pixels: n roundings leave room for any order."""
    eps = torch.finfo(dtype).eps
    return 16 * eps, 8 * eps * max(shape)


@each_backend
@each_shape
@each_coords
@each_eps
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_values_are_the_float64_sums_of_the_formula(
    dtype: torch.dtype, eps: float, coords: str, shape: tuple[int, int], backend: str
) -> None:
    logits = logits_of(shape, dtype)
    out = softargmax(logits, 0.3, coords=coords, eps=eps, backend=backend)
    z, xy, std = oracle(logits, 0.3, coords, eps)
    assert out.heatmap.dtype == out.xy.dtype == out.std.dtype == dtype
    assert out.heatmap.shape == logits.shape
    close(out.heatmap, z, *rounding(dtype, shape))
    close(out.xy, xy, *rounding(dtype, shape))
    close(out.std, std, *rounding(dtype, shape))


@each_backend
@each_shape
def test_values_are_the_moments_of_a_softmax(shape: tuple[int, int], backend: str) -> None:
    logits = logits_of(shape)
    out = softargmax(logits, 0.7, coords="pixel", backend=backend)
    p = torch.softmax(0.7 * logits.flatten(2), -1)
    ys, xs = torch.meshgrid(torch.arange(shape[0]), torch.arange(shape[1]), indexing="ij")
    points = torch.stack((xs, ys), -1).reshape(-1, 2).double()
    mean, raw = p @ points, p @ points**2
    torch.testing.assert_close(out.xy, mean, rtol=1e-12, atol=1e-12)
    # Raw second moments cancel: about 1e-16 x 64^2 under the root.
    torch.testing.assert_close(out.std, ((raw - mean**2).clamp_min(0).sum(-1) / 2).sqrt(), rtol=1e-9, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    beta=st.floats(0.01, 20),
    scale=st.floats(0, 1e3),
    offset=st.floats(-1e4, 1e4),
    seed=st.integers(0, 1000),
)
def test_any_map_stays_inside_itself_and_ignores_a_constant(
    height: int, width: int, beta: float, scale: float, offset: float, seed: int
) -> None:
    logits = scale * logits_of((height, width), seed=seed) + offset
    out = softargmax(logits, beta, coords="pixel")
    assert (out.xy >= 0).all()
    assert (out.xy <= torch.tensor([width - 1, height - 1]) + 1e-9).all()
    assert (out.heatmap.amax((-2, -1)) == 1).all()
    # Half the extent bounds the deviation of any distribution on it.
    assert (out.std <= max(width - 1, height - 1) / 2 + 1e-9).all()
    moved = softargmax(logits + 7.0, beta, coords="pixel")
    # 1e4 carries a rounding of 2e-12, times beta = 20 and 9 pixels.
    torch.testing.assert_close(moved.xy, out.xy, rtol=0, atol=1e-8)


@each_backend
@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("shape", [(3, 5), (17, 64)], ids=str)
def test_kornia_with_the_inverse_temperature_agrees(shape: tuple[int, int], normalized: bool, backend: str) -> None:
    subpix = pytest.importorskip("kornia.geometry.subpix")
    logits = logits_of(shape)
    theirs = subpix.spatial_soft_argmax2d(logits, temperature=1 / 0.3, normalized_coordinates=normalized)
    coords = "align_corners" if normalized else "pixel"
    ours = softargmax(logits, 0.3, coords=coords, backend=backend).xy
    # kornia adds 1e-8 to its normaliser.
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-7)


@each_backend
def test_coordinates_of_a_single_pixel_in_every_convention(backend: str) -> None:
    """Column 3 of 5 and row 1 of 4, written out by hand."""
    logits = torch.full((1, 1, 4, 5), -torch.inf, dtype=torch.float64)
    logits[0, 0, 1, 3] = 2.0
    expected = {"unit": (3 / 5, 1 / 4), "pixel": (3, 1), "align_corners": (0.5, -1 / 3), "cell_center": (0.4, -0.25)}
    for coords, xy in expected.items():
        out = softargmax(logits, coords=coords, backend=backend)
        np.testing.assert_allclose(out.xy[0, 0], xy, rtol=1e-15)
        assert out.std.item() == 0


@each_backend
@each_coords
@each_eps
@pytest.mark.parametrize("per_map", [False, True], ids=["scalar beta", "beta per map"])
def test_gradients_of_logits_and_beta_are_right(per_map: bool, eps: float, coords: str, backend: str) -> None:
    logits = logits_of((4, 5), maps=2)[:1].requires_grad_()
    beta = torch.tensor([0.4, 0.9] if per_map else 0.4, dtype=torch.float64, requires_grad=True)

    def outputs(h: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        return tuple(softargmax(h, b, coords=coords, eps=eps, backend=backend))

    assert torch.autograd.gradcheck(outputs, (logits, beta))


@each_backend
@each_coords
@each_eps
def test_gradients_of_a_readout_are_right(eps: float, coords: str, backend: str) -> None:
    maps = torch.rand(1, 2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
    assert torch.autograd.gradcheck(
        lambda z: tuple(heatmap_readout(z, coords=coords, eps=eps, backend=backend)), (maps.requires_grad_(),)
    )


@each_backend
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(3, 5), (64, 64)], ids=str)
def test_half_inputs_keep_float32_coordinates(shape: tuple[int, int], dtype: torch.dtype, backend: str) -> None:
    logits = logits_of(shape, dtype)
    out = softargmax(logits, 0.3, coords="pixel", eps=1e-4, backend=backend)
    exact = softargmax(logits.float(), 0.3, coords="pixel", eps=1e-4, backend=backend)
    assert out.heatmap.dtype == dtype
    assert out.xy.dtype == out.std.dtype == torch.float32
    # The input is the same number in both: only float32 sums differ.
    close(out.xy, exact.xy, *rounding(torch.float32, shape))
    close(out.std, exact.std, *rounding(torch.float32, shape))
    torch.testing.assert_close(out.heatmap.float(), exact.heatmap, rtol=torch.finfo(dtype).eps, atol=1e-7)


@each_backend
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_gradients_are_those_of_the_same_numbers_in_float32(dtype: torch.dtype, backend: str) -> None:
    grads = []
    for kind in (dtype, torch.float32):
        logits = logits_of((17, 64), dtype).to(kind).requires_grad_()
        out = softargmax(logits, 0.3, eps=1e-4, backend=backend)
        (out.xy.sum() + out.std.sum()).backward()
        assert logits.grad is not None
        assert logits.grad.dtype == kind
        grads.append(logits.grad.float())
    # Only the final cast differs; fp16 has no normal numbers below 6e-5.
    torch.testing.assert_close(grads[0], grads[1], rtol=torch.finfo(dtype).eps, atol=6e-8)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels last": lambda h: h.contiguous(memory_format=torch.channels_last),
    "transposed": lambda h: h.transpose(-1, -2).contiguous().transpose(-1, -2),
    "strided": lambda h: torch.stack((h, h + 1), -1).flatten(-2)[..., ::2],
    "expanded": lambda h: h[:1].expand(2, -1, -1, -1),
}


@each_backend
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_do_not_change_the_answer(layout: str, backend: str) -> None:
    logits = LAYOUTS[layout](logits_of((17, 64)))
    assert not logits.is_contiguous()
    leaf = logits.detach().requires_grad_()
    dense = logits.detach().contiguous().requires_grad_()
    weight = logits_of((17, 64), seed=1)
    grads = []
    for h in (leaf, dense):
        out = softargmax(h, 0.3, eps=1e-4, backend=backend)
        z, xy, std = oracle(h, 0.3, "unit", 1e-4)
        close(out.heatmap, z, rtol=1e-13)
        close(out.xy, xy, rtol=1e-12)
        close(out.std, std, rtol=1e-12)
        loss = out.xy.square().sum() + out.std.sum() + (out.heatmap * weight).sum()
        grads.append(torch.autograd.grad(loss, h)[0])
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-12, atol=1e-14)


@each_backend
@pytest.mark.parametrize("poison", [torch.nan, torch.inf])
@each_eps
def test_a_poisoned_map_leaves_its_neighbours_untouched(eps: float, poison: float, backend: str) -> None:
    clean = logits_of((3, 5))
    logits = clean.clone()
    logits[0, 1, 2, 2] = poison
    out, expected = (softargmax(h, 0.3, eps=eps, backend=backend) for h in (logits, clean))
    keep = torch.ones(2, 3, dtype=torch.bool)
    keep[0, 1] = False
    for got, want in zip(out, expected, strict=True):
        assert torch.equal(got[keep], want[keep])
        assert got[0, 1].isnan().any()


@each_backend
def test_the_gradient_of_a_poisoned_map_stays_in_it(backend: str) -> None:
    logits = logits_of((3, 5))
    logits[0, 1, 2, 2] = torch.nan
    logits[1, 2] = -torch.inf
    logits.requires_grad_()
    out = softargmax(logits, 0.3, eps=1e-4, backend=backend)
    (out.xy.sum() + out.std.sum() + out.heatmap.sum()).backward()
    assert logits.grad is not None
    keep = torch.ones(2, 3, dtype=torch.bool)
    keep[0, 1] = False
    assert logits.grad[keep].isfinite().all()


@each_backend
@each_coords
def test_a_map_of_minus_infinity_reads_as_the_formula_says(coords: str, backend: str) -> None:
    logits = logits_of((3, 5))
    logits[1, 2] = -torch.inf
    with_eps = softargmax(logits, 0.3, coords=coords, eps=1e-4, backend=backend)
    assert (with_eps.heatmap[1, 2] == 0).all()
    assert (with_eps.xy[1, 2] == 0).all()
    assert with_eps.std[1, 2] == 0
    without = softargmax(logits, 0.3, coords=coords, backend=backend)
    assert (without.heatmap[1, 2] == 0).all()
    assert without.xy[1, 2].isnan().all()
    assert with_eps.xy[0].isfinite().all()
    assert without.xy[0].isfinite().all()


@each_backend
def test_masked_pixels_do_not_poison_a_learned_beta(backend: str) -> None:
    """-inf takes a pixel out; its 0 x inf must stay out of the gradient of beta."""
    logits = logits_of((3, 5))
    masked = torch.cat((torch.full((2, 3, 3, 2), -torch.inf, dtype=torch.float64), logits), -1)
    grads = []
    for h in (logits, masked):
        beta = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        softargmax(h, beta, coords="pixel", backend=backend).xy.sum().backward()
        grads.append(beta.grad)
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-12, atol=1e-14)


@each_backend
def test_eps_pulls_towards_the_origin_by_its_share_of_the_sum(backend: str) -> None:
    """A single pixel of mass 1: p = 1 / (1 + eps), not 1, and not 1 / max(1, eps)."""
    logits = torch.full((1, 1, 4, 5), -torch.inf, dtype=torch.float64)
    logits[0, 0, 1, 3] = 0.0
    for coords in ("pixel", "align_corners", "cell_center"):
        plain = softargmax(logits, coords=coords, backend=backend).xy
        pulled = softargmax(logits, coords=coords, eps=0.25, backend=backend).xy
        torch.testing.assert_close(pulled, plain / 1.25, rtol=1e-14, atol=0)


@each_backend
@pytest.mark.parametrize("sigma", [(2.5, 2.5), (1.5, 3.0)], ids=str)
def test_std_is_the_width_of_a_gaussian_in_its_own_units(sigma: tuple[float, float], backend: str) -> None:
    height, width, centre = 48, 64, (30.2, 21.7)
    x, y = torch.arange(width).double(), torch.arange(height).double()[:, None]
    logits = -((x - centre[0]) ** 2) / (2 * sigma[0] ** 2) - (y - centre[1]) ** 2 / (2 * sigma[1] ** 2)
    expected = ((sigma[0] ** 2 + sigma[1] ** 2) / 2) ** 0.5
    for coords, scale in {"pixel": 1, "unit": 1 / 64, "align_corners": 2 / 63, "cell_center": 2 / 64}.items():
        out = softargmax(logits[None, None], coords=coords, backend=backend)
        # A sampled Gaussian of sigma >= 1.5 has the moments of the continuous one up to exp(-2 pi^2 sigma^2) < 1e-18;
        # its tails are cut at 7 sigma.
        assert out.std.item() == pytest.approx(expected * scale, rel=1e-8)
        assert out.xy[0, 0, 0].item() == pytest.approx(grid(coords, width)[0] + centre[0] * scale, rel=1e-8)
    # The published figure takes a mean in unit coordinates from columns in pixels: some 26 pixels for this blob.
    p = torch.softmax(logits.flatten(), 0).reshape(height, width)
    published = ((p * ((x - centre[0] / 64) ** 2 + (y - centre[1] / 48) ** 2)).sum() / 2).sqrt()
    assert published > 8 * expected


@each_backend
@each_eps
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_std_of_one_hot_and_nearly_one_hot_maps_has_a_finite_gradient(dtype: torch.dtype, eps: float, backend: str) -> None:
    for gap in (5e4, 745.0, 100.0, 87.0, 50.0):  # exp underflows to zero, to subnormals, to tiny numbers
        logits = torch.full((1, 2, 9, 9), -gap, dtype=dtype)
        logits[..., 4, 6] = 0.0
        logits.requires_grad_()
        out = softargmax(logits, 1.0, eps=eps, backend=backend)
        (out.std.sum() + out.xy.sum()).backward()
        assert logits.grad is not None
        assert out.std.isfinite().all()
        assert logits.grad.isfinite().all()


@each_backend
@each_coords
@each_eps
def test_reading_the_returned_heatmap_gives_the_returned_coordinates(eps: float, coords: str, backend: str) -> None:
    out = softargmax(logits_of((17, 64)), 0.3, coords=coords, eps=eps, backend=backend)
    read = heatmap_readout(out.heatmap, coords=coords, eps=eps, backend=backend)
    torch.testing.assert_close(read.xy, out.xy, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(read.std, out.std, rtol=1e-13, atol=1e-14)


@each_shape
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float64, 1e-14), (torch.float32, 1e-6), (torch.bfloat16, 4e-3)], ids=str)
@each_backend
def test_heatmaps_alone_are_the_exponentials(shape: tuple[int, int], dtype: torch.dtype, tol: float, backend: str) -> None:
    h = (3 * torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)).to(dtype)
    weights = torch.rand(h.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    exact = h.double().requires_grad_()
    wanted = torch.exp(0.3 * (exact - exact.amax((-2, -1), keepdim=True)))
    given = h.clone().requires_grad_()
    z = heatmap_normalise(given, 0.3, backend=backend)
    assert z.dtype == dtype and z.shape == h.shape and (z.amax((-2, -1)) == 1).all()
    torch.testing.assert_close(z.double(), wanted, rtol=tol, atol=tol)
    (grad,) = torch.autograd.grad(z, given, weights.to(dtype))
    (expected,) = torch.autograd.grad(wanted, exact, weights.to(dtype).double())
    torch.testing.assert_close(grad.double(), expected, rtol=0, atol=4 * tol * max(1.0, expected.abs().max().item()))


@each_backend
def test_a_readout_does_not_need_a_sum_of_one(backend: str) -> None:
    maps = softargmax(logits_of((3, 5))).heatmap
    torch.testing.assert_close(
        heatmap_readout(1e3 * maps, backend=backend).xy, heatmap_readout(maps, backend=backend).xy, rtol=1e-13, atol=0
    )


@each_backend
def test_beta_as_number_and_as_tensor_agree(backend: str) -> None:
    logits = logits_of((3, 5), torch.float32)
    number = softargmax(logits, 0.3, backend=backend)
    for beta in (torch.tensor(0.3), torch.tensor(0.3, dtype=torch.float64), torch.full((3,), 0.3)):
        out = softargmax(logits, beta, backend=backend)
        assert out.xy.dtype == torch.float32
        torch.testing.assert_close(out.xy, number.xy, rtol=1e-6, atol=1e-7)
    each = softargmax(logits, torch.tensor([0.1, 0.3, 0.9]), backend=backend)
    close(each.xy, oracle(logits, torch.tensor([0.1, 0.3, 0.9]), "unit", 0.0)[1], rtol=1e-5)


@each_backend
def test_an_empty_batch_gives_empty_answers(backend: str) -> None:
    out = softargmax(torch.zeros(0, 3, 4, 5), backend=backend)
    assert (out.heatmap.shape, out.xy.shape, out.std.shape) == ((0, 3, 4, 5), (0, 3, 2), (0, 3))


GOOD = torch.zeros(1, 3, 4, 5)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: softargmax(GOOD.long()), TypeError, r"logits .*torch.int64"),
        (lambda: heatmap_readout(GOOD.bool()), TypeError, r"heatmap .*torch.bool"),
        (lambda: softargmax(GOOD[0]), ValueError, r"logits .*\(3, 4, 5\)"),
        (lambda: softargmax(GOOD[..., :0]), ValueError, r"logits .*\(1, 3, 4, 0\)"),
        (lambda: heatmap_readout(GOOD[None]), ValueError, r"heatmap .*\(1, 1, 3, 4, 5\)"),
        (lambda: softargmax(GOOD, coords="units"), ValueError, r"coords 'units'.*unit, pixel"),
        (lambda: softargmax(GOOD, eps=-1e-4), ValueError, "eps .*-0.0001"),
        (lambda: softargmax(GOOD, eps=float("nan")), ValueError, "eps .*nan"),
        (lambda: softargmax(GOOD, eps=float("inf")), ValueError, "eps .*inf"),
        (lambda: softargmax(GOOD, torch.ones(4)), ValueError, r"beta .*\(3,\).*\(4,\)"),
        (lambda: softargmax(GOOD, torch.ones(1, 3)), ValueError, r"beta .*\(1, 3\)"),
        (lambda: softargmax(GOOD, torch.ones(3, device="meta")), ValueError, "beta .*meta"),
        (lambda: softargmax(GOOD, backend="cudnn"), ValueError, "cudnn"),
    ],
)
def test_bad_arguments_are_named(call: Callable[[], object], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call()


def test_integers_beyond_what_an_operator_takes_are_numbers_or_a_sentence() -> None:
    """An eps of 2**70 ended in OverflowError."""
    maps = torch.randn(1, 2, 3, 4)
    torch.testing.assert_close(softargmax(maps, 1, eps=2**70).xy, softargmax(maps, 1.0, eps=2.0**70).xy)
    with pytest.raises(ValueError, match="eps must be a finite number"):
        softargmax(maps, eps=10**400)
    with pytest.raises(ValueError, match="beta must be a tensor or a number that a float can hold, got an integer beyond"):
        softargmax(maps, 10**400)


@pytest.mark.parametrize("shape", [(0,), (3, 4), (1, 2, 8), (1, 2, 3, 4, 5)])
def test_maps_of_another_rank_are_told_on_the_meta_device_too(shape: tuple[int, ...]) -> None:
    maps = torch.empty(shape, device="meta")
    with pytest.raises(RuntimeError, match=r"must have shape \(B, K, H, W\) with H, W >= 1, got \("):
        torch.ops.ldeq.softargmax_forward(maps, None, 1.0, 1e-4, 1.0, 0.0, 1.0, 0.0, True)
