"""The layer under `torch.compile` and `torch.export`."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tanh_cell import TanhCell, injection, start
from torch import Tensor
from torch._dynamo.utils import counters

from ldeq import DEQ, LDEQ
from ldeq.models.ldeq import LDEQOutput
from ldeq.solvers import Anderson, FixedPoint, Solution


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


class Graphs:
    """A compiler that runs what it is given, and counts it."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        self.sizes.append(sum(node.op == "call_function" for node in graph.graph.nodes))
        return graph


def step(deq: Any, cell: TanhCell, x: Tensor) -> list[Tensor]:
    cell.zero_grad()
    z, _ = deq(start(dtype=x.dtype), x)
    z.square().sum().backward()
    grads = [p.grad for p in cell.parameters()]
    assert all(g is not None for g in grads)
    return [z.detach(), *(g for g in grads if g is not None)]


def test_inductor_trains_as_eager_and_compiles_nothing_in_later_steps() -> None:
    cell = TanhCell(torch.float32, norm=0.5)
    deq = DEQ(cell, Anderson(tol=1e-6, max_iter=30))
    compiled = torch.compile(deq)
    seen = None
    for seed in range(4):
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))
        for got, want in zip(step(compiled, cell, x), step(deq, cell, x), strict=True):
            torch.testing.assert_close(got, want, rtol=0, atol=1e-5 * max(1.0, want.abs().max().item()))
        if seen is None:
            seen = counters["stats"]["unique_graphs"]
        assert counters["stats"]["unique_graphs"] == seen
    # The cell without a graph and with one: a solve and its tracked evaluation.
    assert seen == 2


def test_the_cell_is_one_graph_for_every_evaluation() -> None:
    """The compiler looked into the solver and made graphs of its parts."""
    cell, graphs = TanhCell(), Graphs()
    deq = DEQ(cell, FixedPoint(tol=0.0, max_iter=5))
    compiled: Any = torch.compile(deq, backend=graphs)
    with torch.no_grad():
        z, _ = compiled(start(), injection())
        assert torch.equal(z, deq(start(), injection())[0])
    assert len(graphs.sizes) == 1
    for _ in range(3):
        step(compiled, cell, injection())
    assert len(graphs.sizes) <= 3


def test_a_solve_without_polls_is_part_of_a_full_graph_in_inference() -> None:
    graphs = Graphs()
    deq = DEQ(TanhCell(), FixedPoint(max_iter=4, check_every=0))
    compiled: Any = torch.compile(deq, backend=graphs, fullgraph=True)
    with torch.no_grad():
        z, sol = compiled(start(), injection())
        want, same = deq(start(), injection())
    torch.testing.assert_close(z, want, rtol=0, atol=1e-14)
    assert isinstance(sol, Solution)
    assert torch.equal(sol.iterations, same.iterations)
    assert len(graphs.sizes) == 1


def test_a_full_graph_that_cannot_be_says_what_to_do_instead() -> None:
    compiled: Any = torch.compile(DEQ(TanhCell(), Anderson()), backend="eager", fullgraph=True)
    with pytest.raises(Exception, match=r"deq\.cell\.compile\(fullgraph=True\)"):
        compiled(start(), injection())


def test_an_exported_model_gives_the_model_s_results() -> None:
    torch.manual_seed(0)
    model = LDEQ.tiny(landmarks=5, image_size=16, depth=1).eval()
    images = torch.randn(2, 3, 16, 16)
    program = torch.export.export(model, (images,))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    with torch.no_grad():
        want = model(images)
        for exported in (program, torch.export.load(buffer)):
            out = exported.module()(images)
            assert isinstance(out, LDEQOutput)
            assert isinstance(out.solution, Solution)
            torch.testing.assert_close(out.landmarks, want.landmarks, rtol=0, atol=1e-4)
            assert torch.equal(out.solution.iterations, want.solution.iterations)
