r"""The size of the Jacobian J = df/dz of a cell: a penalty that keeps it small, and an estimate of its spectral radius.

Solves converge fast where J is small. Bai, Koltun and Kolter (2021, "Stabilizing Equilibrium Models by Jacobian
Regularization", section 4) add its Frobenius norm to the loss, by Hutchinson's estimate with random v of unit covariance,

$$ \lVert J \rVert_F^2 = \mathrm{E}_v \lVert J^T v \rVert^2 . $$
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError
from .structure import PackedCell, Structure


def jacobian_loss(cell: Callable[[Any, Any], Any], z: Any, x: Any, *, probes: int = 1) -> Tensor:
    """The mean of ||J^T v||^2 / D over the batch and over `probes` random v: an estimate of ||J||_F^2 / D.

    ```python
    z, sol = deq(z0, x)
    loss = task(z) + 0.1 * jacobian_loss(deq.cell, z, x)
    ```

    Args:
        cell: of the layer.
        z: the state `(B, ...)`, or a structure of tensors, at which J is taken. It is detached.
        x: the injection.
        probes: random vectors, >= 1; the variance falls with their number.

    Returns:
        a scalar, with gradients by the cell's parameters and x, if autograd records. D is the size of a sample's state.

    Raises:
        ValueError: for `probes` below 1.
    """
    if probes < 1:
        raise ArgumentError(f"probes must be >= 1, got {probes}")
    recording = torch.is_grad_enabled()
    f, start = _evaluated(cell, z, x)
    total = start.new_zeros(())
    for _ in range(probes):
        product = _pull_back(f, start, torch.randn_like(f), recording)
        total = total + product.square().mean()
    return total / probes


def spectral_radius(cell: Callable[[Any, Any], Any], z: Any, x: Any, *, iterations: int = 50) -> Tensor:
    """The largest absolute eigenvalue of J, of every sample, by the power method on J^T.

    Below 1, fixed-point iteration converges near z, by this factor an evaluation. The estimate is the mean growth of a random
    vector over the second half of the iterations. It holds for complex pairs of eigenvalues too, whose Rayleigh quotient
    turns round and round.

    Args:
        cell, z, x: as in `jacobian_loss`.
        iterations: vector-Jacobian products, >= 2.

    Returns:
        `(B,)`, without a graph.

    Raises:
        ValueError: for `iterations` below 2.
    """
    if iterations < 2:
        raise ArgumentError(f"iterations must be >= 2, got {iterations}")
    f, start = _evaluated(cell, z, x)
    v = _normalised(torch.randn_like(f))[0]
    growth = []
    for i in range(iterations):
        v, size = _normalised(_pull_back(f, start, v, False))
        if i >= iterations // 2:
            growth.append(size)
    return torch.stack(growth).log().mean(0).exp()


def _evaluated(cell: Callable[[Any, Any], Any], z: Any, x: Any) -> tuple[Tensor, Tensor]:
    """f at a copy of z that requires a gradient, and that copy; `(B, D)` for structures."""
    if not isinstance(z, Tensor):
        structure = Structure(z)
        cell, z = PackedCell(cell, structure), structure.pack(z)
    with torch.enable_grad():
        start = z.detach().requires_grad_()
        return cell(start, x), start


def _pull_back(f: Tensor, start: Tensor, v: Tensor, graph: bool) -> Tensor:
    if not f.requires_grad:
        return torch.zeros_like(start)
    (product,) = torch.autograd.grad(f, start, v, retain_graph=True, create_graph=graph, allow_unused=True)
    return torch.zeros_like(start) if product is None else product


def _normalised(v: Tensor) -> tuple[Tensor, Tensor]:
    size = torch.linalg.vector_norm(v.detach().flatten(1), dim=1)
    return v / size.clamp_min(torch.finfo(size.dtype).tiny).reshape(-1, *[1] * (v.ndim - 1)), size
