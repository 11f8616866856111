"""Frames, steps and solves for a while: memory stays flat, a leak or a slowdown is found. `tools/soak.py` runs for longer."""

from __future__ import annotations

import time

import numpy as np
import pytest
import soak


@pytest.mark.parametrize("name", list(soak.RUNS))
def test_memory_stays_flat(name: str) -> None:
    found = soak.soak(soak.RUNS[name](), 80)
    assert found["larger_mib"] <= soak.LARGER


def test_a_run_that_keeps_what_it_made_is_found() -> None:
    kept = []
    found = soak.soak(lambda t: kept.append(np.ones(2**20, np.uint8)), 80)
    assert found["larger_mib"] > soak.LARGER


def test_a_run_that_gets_slower_is_found() -> None:

    def work(t: int) -> None:
        end = time.process_time() + 0.0005 * (1 + t / 80)
        while time.process_time() < end:
            pass

    assert soak.soak(work, 80)["slower"] > soak.SLOWER
