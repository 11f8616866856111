"""Joining and leaving the processes that torchrun starts."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed as dist

# How long a process lets its communication threads come to rest before it takes the group down.
REST_SECONDS = 0.25


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """The group of the processes that torchrun started: NCCL for GPUs, gloo for CPUs; nothing for a single process.

    Leaving waits a moment: a thread of gloo drops its last tensor after the collective has returned and needs the
    interpreter's lock for it, while the group's destructor joins that thread with the lock held: a deadlock, seen with torch
    2.13 as a process that never ended.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        time.sleep(REST_SECONDS)  # sleeping gives the lock away
        dist.destroy_process_group()
