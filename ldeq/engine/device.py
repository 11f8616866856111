"""Where a model runs: device, precision, memory."""

from __future__ import annotations

import resource
import sys
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import distributed as dist

from .settings import SettingsError


def resolve_device(name: str) -> torch.device:
    """``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``; under torchrun ``auto`` takes the process's own GPU.

    Raises:
        SettingsError: if the device does not exist here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SettingsError(f"unknown device {name!r}; use auto, cpu or cuda") from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise SettingsError(
                f"device {name!r} was asked for, but torch {torch.__version__} sees no CUDA GPU; run: ldeq doctor"
            )
        if device.index is None:
            index = dist.get_rank() % torch.cuda.device_count() if dist.is_initialized() else 0
            device = torch.device("cuda", index)
    return device


def memory_mb(device: torch.device) -> float:
    """Peak memory: of the GPU's allocator, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def autocast(device: torch.device, amp: str) -> AbstractContextManager[object]:
    """bf16 autocast where `amp` is ``"bf16"``, nothing for ``"off"``."""
    return torch.autocast(device.type, torch.bfloat16) if amp == "bf16" else nullcontext()
