"""Where a model runs: device, precision, memory."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, nullcontext

import torch

from ..spelling import did_you_mean
from .settings import SettingsError


def resolve_device(name: str) -> torch.device:
    """The device of this process.

    Args:
        name: ``"auto"`` (CUDA where there is any), ``"cpu"``, ``"cuda"`` or ``"cuda:1"``. Of several processes that torchrun
            started on a machine, each takes the GPU of its own local number for ``"auto"`` and ``"cuda"``.

    Raises:
        SettingsError: if the device does not exist here, or has to be shared with another process of the run.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise SettingsError(
            f"unknown device {name!r}{did_you_mean(name, known_devices())}; use one of {', '.join(known_devices())}"
        ) from None
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        raise SettingsError(f"ldeq does not run on {name!r}; use one of {', '.join(known_devices())}")
    if not torch.cuda.is_available():
        raise SettingsError(f"device {name!r} was asked for, but torch {torch.__version__} sees no CUDA GPU; run: ldeq doctor")
    return torch.device("cuda", _gpu_index(name, device.index))


def known_devices() -> list[str]:
    """What `resolve_device` takes on this machine."""
    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return ["auto", "cpu", *(["cuda"] if gpus else []), *gpus]


def _gpu_index(name: str, index: int | None) -> int:
    count = torch.cuda.device_count()
    processes, mine = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    if index is not None and index >= count:
        raise SettingsError(f"there is no device {name!r} here; use one of {', '.join(known_devices())}")
    if processes > 1 and index is not None:
        raise SettingsError(f"{processes} processes cannot share {name}; use run.device: cuda, and each takes a GPU of its own")
    if processes > count:
        raise SettingsError(
            f"{processes} processes were started on a machine with {count} GPU{'s' if count > 1 else ''}; start at most "
            f"{count}, or set run.device: cpu"
        )
    return mine if index is None else index


def memory_mb(device: torch.device) -> float:
    """Peak memory: of the GPU's allocator, else of this process; 0 where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource  # not on Windows
    except ImportError:
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def autocast(device: torch.device, amp: str) -> AbstractContextManager[object]:
    """bf16 autocast where `amp` is ``"bf16"``, nothing for ``"off"``."""
    return torch.autocast(device.type, torch.bfloat16) if amp == "bf16" else nullcontext()
