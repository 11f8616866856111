"""Whole solves at LDEQ's size against torchdeq, the published loop and torch.compile of it."""

from __future__ import annotations

from record import save
from solves import answers, throughput

B, SHAPE, STEPS = 4, (98, 64, 64), 16


def test_throughput(device):
    for solver, results in throughput(B, SHAPE, STEPS, device).items():
        name = "solve_" + solver.replace(" ", "_").lower()
        save(name, f"{solver}, whole solves of {STEPS} evaluations, B = {B}, 98 x 64 x 64, m = 6, fp32", results, device)


def test_the_answer_is_torchdeqs_to_its_tolerance(device):
    found = answers(B, SHAPE, device)
    save("solve_answers", "distances as a share of what the tolerance allows", {"distances": found}, device)
    assert found["ours to the answer"] <= 1
    assert found["ours to torchdeq's"] <= 1
