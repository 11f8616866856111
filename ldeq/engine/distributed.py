"""The processes that torchrun starts: joining and leaving them, and what they say when one of them is lost."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import distributed as dist

from ..errors import LdeqError

TIMEOUT_SECONDS = 900.0
"""How long a process waits for another one before it takes it for lost: far longer than a step, a save or a validation."""

# How long a process lets its communication threads come to rest before it takes the group down.
REST_SECONDS = 0.25
# How long the others have to answer when one is lost.
ROLL_CALL_SECONDS = 5.0

_COMMUNICATION = ("gloo", "nccl", "connection closed", "connection reset", "timed out", "broken pipe")


class ProcessLost(LdeqError, RuntimeError):
    """Another process of the run ended or does not answer; the message says which."""


@contextmanager
def process_group(device: torch.device, timeout: float = TIMEOUT_SECONDS) -> Iterator[None]:
    """The group of the processes that torchrun started: NCCL for GPUs, gloo for CPUs; nothing for a single process.

    Every process owns its device from here on. Without that, whatever NCCL sends as bytes goes through the first GPU for all
    of them, and is refused.

    Leaving waits a moment: a thread of gloo drops its last tensor after the collective has returned and needs the
    interpreter's lock for it, while the group's destructor joins that thread with the lock held: a deadlock, seen with torch
    2.13 as a process that never ended.

    Args:
        device: of this process, as `resolve_device` gives it.
        timeout: seconds to wait for another process.

    Raises:
        ProcessLost: if the processes do not find each other.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield
        return
    backend, owned = ("nccl", device) if device.type == "cuda" else ("gloo", None)
    try:
        dist.init_process_group(backend, device_id=owned, timeout=timedelta(seconds=timeout))
    except (dist.DistError, RuntimeError, ValueError) as error:
        raise ProcessLost(
            f"the {world} processes of this run do not find each other ({_first_line(error)}); start them with torchrun"
        ) from error
    try:
        yield
    finally:
        time.sleep(REST_SECONDS)  # sleeping gives the lock away
        dist.destroy_process_group()


@contextmanager
def naming_lost_processes(advice: Callable[[], str]) -> Iterator[None]:
    """Turns a broken communication into `ProcessLost`, which names the processes that do not answer.

    Args:
        advice: gives the end of the sentence: what to do now.
    """
    try:
        yield
    except RuntimeError as error:
        if not _is_communication(error):
            raise
        lost = _roll_call()
        if lost:
            who = "process" if len(lost) == 1 else "processes"
            sentence = f"{who} {', '.join(map(str, lost))} of {dist.get_world_size()} (rank) ended or does not answer"
        else:
            sentence = f"the processes lost each other ({_first_line(error)})"
        raise ProcessLost(f"{sentence}; {advice()}") from error


def agreed(action: Callable[[], Any], main: bool) -> Any:
    """What `action` returned in the first process, in all of them; its error, too, so that no process waits for ever.

    Args:
        action: only the first process calls it. Its result travels by pickle.
        main: whether this is the first process.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return action()
    answer: list[Any] = [None, None]
    if main:
        try:
            answer[0] = action()
        except LdeqError as error:
            answer[1] = error
    dist.broadcast_object_list(answer, src=0)
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


def share_buffers(model: torch.nn.Module) -> None:
    """Gives every process the buffers of the first one, whose model is the one that is written.

    Each process's BatchNorm has seen batches of its own; parameters are the same everywhere.
    """
    if dist.is_initialized() and dist.get_world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def mean_over_processes(value: torch.Tensor) -> torch.Tensor:
    """The mean of a tensor over the processes; not finite anywhere is not finite everywhere."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        value = value.clone()
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return value


def _is_communication(error: RuntimeError) -> bool:
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return False
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in _COMMUNICATION)


def _roll_call() -> list[int]:
    """Ranks that do not say that they are there: each survivor arrives here when the communication breaks."""
    world, mine = dist.get_world_size(), dist.get_rank()
    try:
        store = dist.distributed_c10d._get_default_store()
        store.set(f"ldeq-survivor-{mine}", "1")
        deadline = time.monotonic() + ROLL_CALL_SECONDS
        lost = [r for r in range(world) if r != mine]
        while lost and time.monotonic() < deadline:
            time.sleep(0.1)
            lost = [r for r in lost if not store.check([f"ldeq-survivor-{r}"])]
        return lost
    except RuntimeError:  # the store went with its process
        with contextlib.suppress(RuntimeError):
            return [0] if mine and world == 2 else []
        return []


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
