"""How torch's threads wait for each other: asleep in commands that find landmarks, if onnxruntime evaluates the network.

By default they spin. Where another process needs a core, whoever spins takes the time that the thread it waits for would need,
and between two operators of torch the spinning threads take the cores from onnxruntime's. Small-68, two threads of two cores,
AVX-512, median ms of a full solve, nearly alone and at a load of 11 to 114:

| engine | spinning | asleep |
| --- | --- | --- |
| torch | 16 / 650 to 2,600 | 25 / 53 to 58 |
| onnxruntime | 14 / 56 to 154 | 14 / 13 to 16 |

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

VARIABLE = "OMP_WAIT_POLICY"
OTHERS = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""What else a user may have set for the same purpose."""

COMMANDS = ("predict", "video", "webcam", "eval")
"""Those that find landmarks. Training runs on torch alone, which loses on a quiet machine when its threads sleep."""


class Waiting(NamedTuple):
    """`policy` is the value of `VARIABLE`, None if it stays as it is, and why."""

    policy: str | None
    reason: str


def choose_waiting(environment: MutableMapping[str, str]) -> Waiting:
    """How threads shall wait in a command that finds landmarks.

    Args:
        environment: of the process; what the user set decides.
    """
    for name in (VARIABLE, *OTHERS):
        if name in environment:
            return Waiting(None, f"{name}={environment[name]}")
    for package in ("onnx", "onnxruntime"):
        if find_spec(package) is None:
            return Waiting(None, f"spinning, as torch does by itself: {package} is not installed")
    return Waiting("passive", "asleep, so that onnxruntime and other programs have the cores")


def threads_sleep(environment: Mapping[str, str]) -> bool:
    """Whether the threads of a process with this environment sleep while they wait."""
    return environment.get(VARIABLE, "").lower() == "passive"


def apply_waiting(program: Sequence[str], words: Sequence[str], environment: MutableMapping[str, str]) -> None:
    """Sets how threads wait, if this process is a command that finds landmarks with onnxruntime and has not loaded torch.

    Args:
        program: how Python was started, ``sys.orig_argv``.
        words: ``sys.argv``.
        environment: changed.
    """
    command, *options = *words[1:], ""
    if "torch" in sys.modules or command not in COMMANDS or not is_program(words, program):
        return
    asked = " ".join(options).replace("=", " ").split()
    if ("--engine", "torch") in pairwise(asked):
        return
    if (policy := choose_waiting(environment).policy) is not None:
        environment[VARIABLE] = policy
