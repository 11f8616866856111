"""Batches from loader processes that leave Ctrl-C and SIGTERM to the process that reads them."""

from __future__ import annotations

import multiprocessing
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any

from torch.utils.data import DataLoader, Dataset

from ..errors import LdeqError


class LoaderError(LdeqError, RuntimeError):
    """A loader process ended before its work was done; the message says how and what to do."""


def load_batches(dataset: Dataset[dict[str, Any]], *, workers: int, **options: Any) -> Iterator[dict[str, Any]]:
    """What ``DataLoader(dataset, num_workers=workers, **options)`` yields.

    Ctrl-C in a terminal, and a batch system's SIGTERM, reach every process of the group. The reader answers them, and still
    needs its loaders until its step is done; they end with it.

    Raises:
        LoaderError: if a loader process dies.
    """
    loader = DataLoader(dataset, num_workers=workers, **options)
    context: Any = loader.multiprocessing_context or multiprocessing  # the module answers for the default context
    with dead_loaders_told(), _signals_held(context.get_start_method() if workers else None):
        batches = iter(loader)
    while True:
        with dead_loaders_told():
            try:
                batch = next(batches)
            except StopIteration:
                return
        yield batch


@contextmanager
def dead_loaders_told() -> Iterator[None]:
    """Turns what torch raises for a dead loader process into `LoaderError`.

    torch raises it from a handler of SIGCHLD, so wherever the reader happens to be.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, LoaderError) or "DataLoader worker" not in str(error):
            raise
        how = re.search(r"killed by signal: (\w+)", str(error))
        reason = f"was killed by signal {how[1]}" if how else "ended without a word"
        raise LoaderError(
            f"a loader process {reason}; the system does so if memory is short: lower data.workers or leave out data.cache"
        ) from error


@contextmanager
def _signals_held(start_method: str | None) -> Iterator[None]:
    """Processes started inside never see the two signals; this one sees them afterwards.

    A mask is inherited and so holds from a process's first instruction on: a handler set in the worker would come too late for
    a signal that arrives while it starts.
    """
    if start_method is None or not hasattr(signal, "pthread_sigmask"):  # Windows has neither the mask nor the group
        yield
        return
    if start_method != "fork":
        resource_tracker.ensure_running()  # started later, it would lift the mask on its way
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
