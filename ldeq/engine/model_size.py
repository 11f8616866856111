"""Whether the model that settings ask for fits into memory, asked before a single weight is made."""

from __future__ import annotations

import os

import torch

from ..models import LDEQ, LDEQConfig
from .settings import SettingsError

_COPIES = 5
"""Of the weights in float32 while training: themselves, their gradients, two moments of Adam, and their moving average."""


def check_size(config: LDEQConfig, device: torch.device) -> None:
    """Refuses a model whose training cannot fit.

    Raises:
        SettingsError: if its weights and what the optimizer keeps of them need more memory than the device has.
    """
    memory = total_memory(device)
    if memory is None:
        return
    with torch.device("meta"), torch.random.fork_rng(devices=()):
        count = sum(p.numel() for p in LDEQ(config).parameters())
    needed = 4 * _COPIES * count
    if needed > memory:
        place = "this machine" if device.type == "cpu" else str(device)
        raise SettingsError(
            f"model.width={config.width} and model.depth={config.depth} make {count / 1e6:,.0f} million parameters, whose "
            f"training needs {needed / 2**30:,.0f} GiB, and {place} has {memory / 2**30:,.0f}; make the model smaller"
        )


def total_memory(device: torch.device) -> int | None:
    """Bytes of the GPU, else of the machine; None if the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return None
