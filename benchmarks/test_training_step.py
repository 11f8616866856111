"""A training step of LDEQ against this project's own plain rewrite of it, and memory against the solve's budget."""

from __future__ import annotations

import pytest
from memory import against_budget, plot
from record import RESULTS, save
from training import describe, steps

from ldeq.models import LDEQConfig

# On a CPU a step of the paper's model takes more than a second: one sample.
BATCH = {"cpu": {"small": 4, "paper": 1}, "cuda": {"small": 32, "paper": 16}}
# Of a step each, ours and the baseline's in turn; below five rounds the quantiles are those of one or two of them.
ROUNDS = {"cpu": {"small": 15, "paper": 9}, "cuda": {"small": 20, "paper": 10}}


@pytest.mark.parametrize("size", ["small", "paper"])
def test_step(device, size):
    config, batch = getattr(LDEQConfig, size)(), BATCH[device][size]
    results = steps(config, batch, device, rounds=ROUNDS[device][size])
    what = f"training step of LDEQ, {size} size, batch {batch}, {config.solver}, budget {config.max_iter}, fp32"
    save(f"training_step_{size}", what, results, device, rounds=ROUNDS[device][size])
    for name, r in results.items():
        print(f"{size}, {name}: {describe(r)}")


def test_memory(device):
    size, batch = ("tiny", 2) if device == "cpu" else ("paper", 4)
    config = getattr(LDEQConfig, size)()
    found = against_budget(config, batch, device)
    what = f"peak bytes of forward and backward against max_iter, {size} size, batch {batch}"
    save("memory", what, found, device)
    plot(found, f"LDEQ, {size} size, batch {batch}", RESULTS / f"memory{'-cuda' if device == 'cuda' else ''}.png")
    # A CPU solve whose samples all go on keeps no x of its own; in a budget that some of them do not need it has one. A state
    # is a twentieth of the tiny model's memory, and nothing of the paper's.
    state = 4 * batch * config.landmarks * config.heatmap_size**2 if device == "cpu" else 0
    for gradient in ("implicit", "jfb"):
        peaks = found[gradient].values()
        assert max(peaks) <= 1.01 * min(peaks) + state, f"{gradient}: peak memory grows with the budget"
