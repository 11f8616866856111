"""The claims of docs/coming-from-torchdeq.md that compare the two layers; the others are tests of the layer itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchdeq import get_deq
from torchdeq.loss import jac_reg

from ldeq import DEQ
from ldeq.compat import torchdeq as compat
from ldeq.implicit import jacobian_loss
from ldeq.solvers import Anderson, FixedPoint

PAGE = Path(__file__).parents[2] / "docs" / "coming-from-torchdeq.md"


def problem() -> tuple[torch.nn.Linear, Tensor]:
    torch.manual_seed(0)
    return torch.nn.Linear(8, 8).double(), torch.randn(4, 8, dtype=torch.float64)


def test_the_example_of_the_page_runs() -> None:
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]
    scope: dict[str, Any] = {}
    exec(code, scope)
    assert scope["layer"].weight.grad is not None


def test_the_implicit_gradient_is_torchdeqs() -> None:
    layer, x = problem()
    theirs = get_deq(f_solver="anderson", b_solver="anderson", ift=True, f_tol=1e-9, b_tol=1e-9, f_max_iter=80, b_max_iter=80)
    z_out, _ = theirs(lambda z: torch.tanh(0.5 * layer(z) + x), torch.zeros_like(x))
    (want,) = torch.autograd.grad(z_out[-1].square().sum(), layer.weight)
    deq = DEQ(lambda z, x: torch.tanh(0.5 * layer(z) + x), Anderson(tol=1e-10, max_iter=80), params=layer)
    (got,) = torch.autograd.grad(deq(torch.zeros_like(x), x)[0].square().sum(), layer.weight)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-8)


def test_phantom_gradients_and_states_are_torchdeqs() -> None:
    layer, x = problem()
    theirs = get_deq(core="indexing", f_solver="fixed_point_iter", grad=2, tau=0.6, n_states=3, f_max_iter=12, f_tol=0.0)
    z_out, _ = theirs(lambda z: torch.tanh(0.5 * layer(z) + x), torch.zeros_like(x))
    deq = DEQ(
        lambda z, x: torch.tanh(0.5 * layer(z) + x),
        FixedPoint(max_iter=12, tol=0.0),
        gradient="jfb",
        phantom_steps=2,
        tau=0.6,
        n_states=3,
        params=layer,
    )
    z, solution = deq(torch.zeros_like(x), x)
    assert solution.states is not None
    for got, want in zip((*solution.states, z), z_out, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)
        grads = [torch.autograd.grad(t.square().sum(), layer.weight, retain_graph=True)[0] for t in (got, want)]
        torch.testing.assert_close(*grads, rtol=1e-7, atol=1e-10)


def test_the_jacobian_penalty_estimates_what_torchdeqs_does() -> None:
    layer, x = problem()
    z = torch.zeros_like(x).requires_grad_()
    theirs = jac_reg(torch.tanh(0.5 * layer(z) + x), z, vecs=2000)
    ours = jacobian_loss(lambda z, x: torch.tanh(0.5 * layer(z) + x), z, x, probes=2000)
    assert abs(ours.item() / theirs.item() - 1) < 0.1


@pytest.mark.parametrize("mode", ["abs", "rel"])
def test_the_stop_mode_reaches_the_solver(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop mode that a layer swallows leaves the solver at its own default."""
    compat.register()
    seen = []
    solve = compat._solve

    def spy(solver: Any, func: Any, x0: Any, max_iter: int, tol: float, stop_mode: str, *rest: Any) -> Any:
        seen.append(stop_mode)
        return solve(solver, func, x0, max_iter, tol, stop_mode, *rest)

    monkeypatch.setattr(compat, "_solve", spy)
    layer, x = problem()
    deq = get_deq(f_solver="ldeq_anderson", b_solver="ldeq_anderson", ift=True, f_stop_mode=mode, b_stop_mode=mode)
    z_out, _ = deq(lambda z: torch.tanh(0.5 * layer(z) + x), torch.zeros_like(x))
    z_out[-1].sum().backward()
    assert seen == [mode, mode]
    with pytest.raises(ValueError, match="stop_mode"):
        compat.anderson(torch.cos, torch.zeros(1, 2), stop_mode="relative")
