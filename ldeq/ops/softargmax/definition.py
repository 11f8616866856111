r"""Heatmap normalisation and soft-argmax.

For a map h of H rows and W columns, with X and Y the coordinates of column and row:

$$ z = \exp(\beta (h - \max h)), \quad p = z / (\sum z + \epsilon), \quad x = \sum p X, \quad y = \sum p Y, $$
$$ \mathrm{std} = \sqrt{(\sum p (X_{px} - x_{px})^2 + \sum p (Y_{px} - y_{px})^2) / 2} \cdot s $$

with variances in pixels about the mean in pixels, and s the length of one column in the chosen coordinates. This is the
readout of LDEQ (CVPR 2023, section 3; beta 0.3 or 0.4, eps 1e-4, ``coords="unit"``). Its published code subtracts a mean
in unit coordinates from columns in pixels, which is no standard deviation; here both are in pixels.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...brief import brief_repr
from ...errors import ArgumentError
from ...spelling import did_you_mean
from ..dispatch import BackendError, current_backend, implementation, transformed

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

    def __repr__(self) -> str:
        return brief_repr(self)


class Readout(NamedTuple):
    """What `heatmap_readout` returns: `xy` `(B, K, 2)` and `std` `(B, K)`, as in `SoftArgmax`."""

    xy: Tensor
    std: Tensor

    def __repr__(self) -> str:
        return brief_repr(self)


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
    return _given("softargmax", backend, logits, beta, coords, eps)(logits, _number(beta), coords, float(eps), heatmap)


def heatmap_normalise(logits: Tensor, beta: float | Tensor = 1.0, *, backend: str | None = None) -> Tensor:
    r"""Heatmaps of peak 1, $\exp(\beta (h - \max h))$: the first half of `softargmax`, in one pass over the logits.

    Args:
        logits, beta, backend: as in `softargmax`.

    Returns:
        `(B, K, H, W)` of the logits' dtype.

    Raises:
        as `softargmax`.
    """
    return _given("heatmap_normalise", backend, logits, beta)(logits, _number(beta))


def heatmap_readout(heatmap: Tensor, *, coords: str = "unit", eps: float = 0.0, backend: str | None = None) -> Readout:
    """Coordinates and standard deviation of maps that are normalised already: the second half of `softargmax`.

    Args:
        heatmap: `(B, K, H, W)`, non-negative, floating point; need not sum to one.
        coords, eps, backend: as in `softargmax`.

    Raises:
        as `softargmax`.
    """
    _check_maps(heatmap, "heatmap", coords, eps)
    return _implementation("heatmap_readout", backend, heatmap)(heatmap, coords, float(eps))


def _number(beta: float | Tensor) -> float | Tensor:
    """A beta that is a number as a float, which every backend takes."""
    if isinstance(beta, Tensor):
        return beta
    try:
        return float(beta)
    except OverflowError:
        raise ArgumentError("beta must be a tensor or a number that a float can hold, got an integer beyond 1.8e308") from None


def _given(
    operator: str, backend: str | None, logits: Tensor, beta: float | Tensor, coords: str = "unit", eps: float = 0.0
) -> Callable[..., Any]:
    """What runs `operator`, once its arguments have been checked."""
    _check_maps(logits, "logits", coords, eps)
    if isinstance(beta, Tensor):
        if beta.ndim not in (0, 1) or (beta.ndim == 1 and beta.shape[0] != logits.shape[1]):
            raise ArgumentError(
                f"beta must have shape () or (K,) = ({logits.shape[1]},) for logits of shape {tuple(logits.shape)}, "
                f"got {tuple(beta.shape)}"
            )
        if beta.device != logits.device:
            raise ArgumentError(f"beta is on {beta.device} and logits on {logits.device}; move beta with .to(logits.device)")
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


def _check_maps(maps: Tensor, name: str, coords: str, eps: float) -> None:
    if not maps.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {maps.dtype}; convert with .float()")
    if maps.ndim != 4 or 0 in maps.shape[-2:]:
        raise ArgumentError(f"{name} must have shape (B, K, H, W) with H, W >= 1, got {tuple(maps.shape)}")
    if coords not in COORDS:
        raise ArgumentError(f"unknown coords {coords!r}{did_you_mean(coords, COORDS)}; choose one of {', '.join(COORDS)}")
    # An integer may be larger than any float.
    if not 0 <= eps <= sys.float_info.max:
        raise ArgumentError(f"eps must be a finite number >= 0, got {eps}")
