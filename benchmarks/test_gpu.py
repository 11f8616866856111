"""GPU alone (`make bench-gpu`): backends at all batches and precisions, CUDA graphs."""

from __future__ import annotations

import pytest
from gpu import graph_solves, kernels, replays
from record import save

from ldeq.cli.bench import SHAPE


@pytest.fixture(autouse=True)
def needs_gpu(device):
    if device != "cuda":
        pytest.skip("measured on a GPU alone: make bench-gpu")


def test_kernels(device):
    results, more = kernels(SHAPE, device)
    save("kernels", "operators by backend, 98 x 64 x 64 a sample", results, device, **more)


def test_replays(device):
    results, more = replays(SHAPE, device)
    save("replays", "operators by backend in CUDA graphs, 98 x 64 x 64 a sample", results, device, **more)


def test_graphs(device):
    results, more = graph_solves(SHAPE, 8, device)
    save("graphs", "Anderson solves of 8 evaluations, 98 x 64 x 64 a sample, fp32", results, device, **more)
