"""How torch's threads wait for each other in the commands: asleep, or spinning for a short while.

By default they spin for milliseconds. Where another process needs a core, whoever spins takes the time that the thread it waits
for would need, and between two operators of torch the spinning threads take the cores from onnxruntime's. Small-68, two threads
of two cores, AVX-512, median ms of a full solve:

| engine | spinning | 2,000 looks | asleep | beside |
| --- | --- | --- | --- | --- |
| torch | 11 | 12 | 22 | nothing |
| torch | over 14,000 | 43 | 22 | two busy loops |
| onnxruntime | 14 | not measured | 14 | nothing |
| onnxruntime | 56 to 154 | not measured | 13 to 16 | load 11 to 114 |

So a command that finds landmarks with onnxruntime lets torch's threads sleep, and every other command lets them look 2,000
times. Training of the small model makes 88 images/s with threads that spin, 83 with 2,000 looks and 64 with threads that sleep.

The runtime of the threads reads this when torch is loaded. A library must not decide that for the process it is in, so only the
commands do. This module therefore needs nothing but the standard library.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, MutableMapping, Sequence
from importlib.util import find_spec
from itertools import pairwise
from typing import NamedTuple

from .startup import is_program

POLICY = "OMP_WAIT_POLICY"
LOOKS = "GOMP_SPINCOUNT"
"""How often a waiting thread looks before it sleeps, for the runtime that torch has on Linux (libgomp)."""

VARIABLES = (POLICY, LOOKS, "KMP_BLOCKTIME")
"""What a user may have set for this purpose."""

FINDING = ("predict", "video", "webcam", "eval")
"""The commands that find landmarks."""


class Waiting(NamedTuple):
    """`variable` is set to `value` (None: nothing is set), and why."""

    variable: str | None
    value: str
    reason: str


def choose_waiting(environment: Mapping[str, str], finds_landmarks: bool = True) -> Waiting:
    """How threads shall wait in a command.

    Args:
        environment: of the process; what the user set decides.
        finds_landmarks: whether the command finds landmarks with the engine that is chosen by itself.
    """
    for name in VARIABLES:
        if name in environment:
            return Waiting(None, "", f"{name}={environment[name]}")
    missing = [package for package in ("onnx", "onnxruntime") if find_spec(package) is None]
    if finds_landmarks and not missing:
        return Waiting(POLICY, "passive", "asleep, so that onnxruntime and other programs have the cores")
    why = f", since {missing[0]} is not installed" if finds_landmarks else ""
    return Waiting(LOOKS, "2000", f"spinning for a short while, then asleep{why}")


def threads_sleep(environment: Mapping[str, str]) -> bool:
    """Whether the threads of a process with this environment sleep while they wait."""
    return environment.get(POLICY, "").lower() == "passive"


def apply_waiting(program: Sequence[str], words: Sequence[str], environment: MutableMapping[str, str]) -> None:
    """Sets how threads wait, if this process is a command and has not loaded torch.

    Args:
        program: how Python was started, ``sys.orig_argv``.
        words: ``sys.argv``.
        environment: changed.
    """
    if "torch" in sys.modules or not is_program(words, program):
        return
    command, *options = *words[1:], ""
    if command == "doctor":  # says what the others do, and would find its own setting for the user's
        return
    asked = " ".join(options).replace("=", " ").split()
    chosen = choose_waiting(environment, command in FINDING and ("--engine", "torch") not in pairwise(asked))
    if chosen.variable is not None:
        environment[chosen.variable] = chosen.value
