"""Loader processes outlive the signals that their reader answers."""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.context import ForkContext, ForkProcess, SpawnContext, SpawnProcess
from types import FrameType
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from ldeq.engine.interruption import StopRequest
from ldeq.engine.loading import load_batches

BOTH = (signal.SIGINT, signal.SIGTERM)


class Numbers(Dataset[dict[str, Any]]):
    """A worker gets both signals before every item, too."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict[str, Any]:
        if multiprocessing.parent_process():
            signal_oneself()
        return {"number": index}


def signal_oneself() -> None:
    for number in BOTH:
        os.kill(os.getpid(), number)


class Forked(ForkProcess):
    """Signalled before torch has set a handler: the moment that a handler of ours could not cover."""

    def run(self) -> None:
        signal_oneself()
        super().run()


class Spawned(SpawnProcess):
    def run(self) -> None:
        signal_oneself()
        super().run()


class Fork(ForkContext):
    Process = Forked


class Spawn(SpawnContext):
    Process = Spawned


@pytest.mark.parametrize("context", [Fork(), Spawn()], ids=["fork", "spawn"])
def test_loaders_deliver_whatever_signals_reach_them_from_their_start_on(context: Any) -> None:
    batches = load_batches(Numbers(), workers=2, batch_size=2, multiprocessing_context=context)
    assert torch.cat([b["number"] for b in batches]).tolist() == list(range(6))


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_loaders_of_every_start_method_hold_the_signals(method: str) -> None:
    batches = load_batches(Numbers(), workers=1, batch_size=3, multiprocessing_context=method)
    assert torch.cat([b["number"] for b in batches]).tolist() == list(range(6))


@pytest.mark.parametrize("number", BOTH)
def test_the_reader_answers_a_signal_that_came_while_its_loaders_started(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fork() -> int:
        os.kill(os.getpid(), number)
        return real()

    real = os.fork
    monkeypatch.setattr(os, "fork", fork)
    told: list[bool] = []
    with StopRequest(lambda: told.append(True)) as stop:
        batches = list(load_batches(Numbers(), workers=1, batch_size=3, multiprocessing_context="fork"))
        assert stop.asked(torch.device("cpu"))
    assert told == [True] and len(batches) == 2


@pytest.mark.parametrize("number", BOTH)
def test_the_readers_own_mask_and_handlers_are_as_before(number: signal.Signals) -> None:
    seen: list[int] = []

    def note(n: int, _: FrameType | None) -> None:
        seen.append(n)

    before = signal.signal(number, note)
    try:
        list(load_batches(Numbers(), workers=1, batch_size=3))
        assert number not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        assert signal.getsignal(number) is note
        os.kill(os.getpid(), number)
        assert seen == [number]
    finally:
        signal.signal(number, before)
