"""Training memory of the implicit layer does not depend on the budget of its solves."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from saved_memory import Meter

from ldeq import LDEQ


def saved_bytes(gradient: str, max_iter: int) -> int:
    torch.manual_seed(0)
    model = LDEQ.tiny(landmarks=5, gradient=gradient, max_iter=max_iter, tol=0.0, backward_tol=0.0)
    images = torch.randn(4, 3, 64, 64)
    meter = Meter()
    with torch.autograd.graph.saved_tensors_hooks(meter.pack, meter.unpack):
        model(images).landmarks.square().sum().backward()
    assert meter.now == 0
    return meter.peak


def test_activations_do_not_grow_with_the_budget() -> None:
    """What implicit differentiation is for; the comparison with unrolling shows that the meter would notice."""
    four, many = saved_bytes("implicit", 4), saved_bytes("implicit", 64)
    assert abs(many - four) <= 0.02 * four
    assert saved_bytes("jfb", 16) <= 1.02 * four
    # Five evaluations against seventeen.
    assert saved_bytes("unrolled", 16) > 3 * saved_bytes("unrolled", 4)
    assert saved_bytes("unrolled", 4) > 3 * four


RESIDENT = """
import re, torch
from pathlib import Path
from ldeq import LDEQ

def peak(gradient, max_iter, solver):
    torch.manual_seed(0)
    budget = {"max_iter": max_iter, "backward_max_iter": max_iter, "tol": 0.0}
    history = {"m": 3} if solver == "anderson" else {}
    model = LDEQ.tiny(landmarks=5, image_size=96, solver=solver, gradient=gradient, **history, **budget)
    model(torch.randn(4, 3, 96, 96)).landmarks.sum().backward()
    # Not ru_maxrss: a child starts with the mark of the process that it was forked from.
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

# The high-water mark never falls, so the order is the experiment; the first step also loads what torch loads late.
peak("implicit", 4, "anderson")
print(peak("implicit", 4, "anderson"), peak("implicit", 64, "anderson"), peak("unrolled", 32, "fixed_point"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the high-water mark is read from /proc")
def test_resident_memory_does_not_grow_with_the_budget() -> None:
    # Large blocks come from mmap and go back to the system when freed, instead of fragmenting a heap.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", RESIDENT], env=environment, capture_output=True, text=True, check=True, timeout=600
    )
    four, many, unrolled = map(int, run.stdout.split())
    # Four evaluations fill a history of three: the solver itself holds as much in both.
    assert many <= 1.02 * four
    # Most of a process is its libraries, in a CUDA build above all; 32 evaluations show all the same, in kilobytes.
    assert unrolled - many > 50_000
