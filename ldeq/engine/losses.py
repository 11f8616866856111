"""What training minimises: the error of landmarks, or of the heatmaps that they are read from; flicker, and openings.

Landmarks whose label is NaN are in no mean.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from ..data import Layout
from .settings import HEATMAP_LOSSES, OptimSettings

WING = 10.0, 2.0
"""w and epsilon of the Wing loss, in pixels of a crop of 256 pixels: Feng et al., CVPR 2018, section 5."""

ADAPTIVE_WING = 14.0, 0.5, 1.0, 2.1
"""omega, theta, epsilon and alpha: Wang et al., ICCV 2019, section 4.3."""

NEAR, NEAR_WEIGHT = 0.2, 10.0
"""Of the adaptive Wing loss: a pixel counts 10 times more where the target, the maximum of 3 x 3 pixels, is at least 0.2."""

LEAST = 1e-30
"""Below it a heatmap's value counts as this one, since its logarithm is taken."""


def training_loss(out: Any, target: Tensor, layout: Layout, optim: OptimSettings) -> Tensor:
    """The loss of a step, as the settings say.

    Args:
        out: of the model: `landmarks`, and `z` for a loss on heatmaps.
        target: the labels in unit crop coordinates, in the shape of the landmarks.
        layout: of the landmarks.
        optim: which losses, and their weights.
    """
    if optim.loss in HEATMAP_LOSSES:
        loss = heatmap_loss(out.z, target, optim.loss, optim.sigma, optim.margin)
    else:
        loss = landmark_loss(out.landmarks, target, optim.loss)
    if optim.openings:
        loss = loss + optim.openings * opening_loss(out.landmarks, target, layout)
    if optim.flicker:
        loss = loss + optim.flicker * flicker_loss(out.landmarks, target)
    return loss


def landmark_loss(predicted: Tensor, target: Tensor, kind: str) -> Tensor:
    """Mean over everything but x and y of `(..., K, 2)`.

    Args:
        predicted: landmarks in unit crop coordinates.
        target: their labels.
        kind: ``"l1"``, the mean of |dx| and |dy|; ``"l2"``, the Euclidean distance; ``"wing"``, the mean over x and y of
            w ln(1 + |d| / epsilon) below w and |d| - C above it (Feng et al., CVPR 2018, equation 5), in unit coordinates.
    """
    error, known = _error(predicted, target)
    if kind == "l2":
        return _mean(_length(error), known)
    return _mean((_wing(256 * error.abs()) / 256 if kind == "wing" else error.abs()).mean(-1), known)


def heatmap_loss(z: Tensor, target: Tensor, kind: str, sigma: float = 1.0, margin: float = 5.0) -> Tensor:
    """Mean error of heatmaps, from which landmarks are read, against a Gaussian about each label.

    Landmarks whose label lies outside of the map are in no mean.

    Args:
        z: heatmaps `(B, K, h, w)` with a peak of 1.
        target: `(B, K, 2)`, labels in unit coordinates: column / w and row / h.
        kind: ``"adaptive_wing"``, the weighted adaptive Wing loss against a peak of 1 (Wang et al., ICCV 2019, equations 3, 7
            and 8). ``"structured"``: with p the map divided by its sum and q the Gaussian divided by its, the log-sum-exp over
            pixels of (ln p + margin x distance to the label) less the mean of ln p under q: the smooth hinge of structured
            prediction (Hazan and Urtasun, NeurIPS 2010), which needs no soft-argmax. A margin of 0 is the cross entropy.
        sigma: deviation of the Gaussian in pixels of the map.
        margin: for a distance of the map's whole side.
    """
    height, width = z.shape[-2:]
    size = target.new_tensor([width, height])
    known = (target.isfinite() & (target >= 0) & (target * size <= size - 1)).all(-1)
    centre = torch.where(known[..., None], target, 0.0) * size
    dx = torch.arange(width, device=z.device, dtype=z.dtype) - centre[..., 0, None]
    dy = torch.arange(height, device=z.device, dtype=z.dtype) - centre[..., 1, None]
    squared = dy.square()[..., None] + dx.square()[..., None, :]
    gaussian = torch.exp(-0.5 * squared / sigma**2)
    if kind == "adaptive_wing":
        near = max_pool2d(gaussian, 3, 1, 1) >= NEAR
        return _mean((_adaptive_wing(z, gaussian) * (1 + NEAR_WEIGHT * near)).mean((-2, -1)), known)
    log_z = z.clamp(min=LEAST).log()
    q = gaussian / gaussian.sum((-2, -1), keepdim=True)
    hinge = torch.logsumexp((log_z + margin * squared.sqrt() / max(height, width)).flatten(2), -1)
    return _mean(hinge - (q * log_z).sum((-2, -1)), known)


def flicker_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean Euclidean change of the error between consecutive frames, of sequences `(B, T, K, 2)`.

    What NMF measures (Micaelli et al., CVPR 2023, section 5), without its squares: an outlier does not rule a batch.
    """
    error, known = _error(predicted, target)
    return _mean(_length(error[:, 1:] - error[:, :-1]), known[:, 1:] & known[:, :-1])


def opening_loss(predicted: Tensor, target: Tensor, layout: Layout) -> Tensor:
    """Mean Euclidean error of the ways from upper to lower lids and lips, of landmarks `(..., K, 2)`.

    An eye that is drawn open over closed lids errs by little in each landmark and by much in this.
    """
    pairs = [pair for o in layout.openings.values() for pair in zip(o.upper[1:-1], o.lower[1:-1], strict=True)]
    if not pairs:
        return predicted.new_zeros(())
    upper, lower = (list(side) for side in zip(*pairs, strict=True))
    error, known = _error(predicted, target)
    return _mean(_length(error[..., upper, :] - error[..., lower, :]), known[..., upper] & known[..., lower])


def _wing(pixels: Tensor) -> Tensor:
    w, epsilon = WING
    return torch.where(pixels < w, w * torch.log1p(pixels / epsilon), pixels - (w - w * math.log1p(w / epsilon)))


def _adaptive_wing(z: Tensor, target: Tensor) -> Tensor:
    omega, theta, epsilon, alpha = ADAPTIVE_WING
    power, error = alpha - target, (target - z).abs()
    ratio = (theta / epsilon) ** power
    slope = omega / (1 + ratio) * power * (theta / epsilon) ** (power - 1) / epsilon
    offset = theta * slope - omega * torch.log1p(ratio)
    # The power has an infinite slope at 0 where it is below 1, and no branch of `where` may hold one.
    small = omega * torch.log1p((error.clamp(min=1e-6) / epsilon) ** power)
    return torch.where(error < theta, small, slope * error - offset)


def _error(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The error `(..., K, 2)`, 0 where there is no label, and where there is one, `(..., K)`."""
    known = target.isfinite().all(-1)
    return torch.where(known[..., None], predicted - target, 0.0), known


def _mean(values: Tensor, known: Tensor) -> Tensor:
    return (values * known).sum() / known.sum().clamp(min=1)


def _length(vectors: Tensor) -> Tensor:
    # sqrt has no finite slope at 0; 1e-12 is the square of a millionth of a unit crop.
    return (vectors.square().sum(-1) + 1e-12).sqrt()
