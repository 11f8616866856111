"""Which process of a run is gone, as the others find out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ldeq.engine import distributed
from ldeq.engine.distributed import ProcessLost, naming_lost_processes


class Store:
    """The store of a group in which some ranks answer, after so many questions."""

    def __init__(self, answers: dict[int, int]) -> None:
        self.answers, self.asked = answers, dict.fromkeys(answers, 0)
        self.said: list[str] = []

    def set(self, key: str, value: str) -> None:
        self.said.append(key)

    def check(self, keys: list[str]) -> bool:
        rank = int(keys[0].rsplit("-", 1)[1])
        if rank not in self.answers:
            return False
        self.asked[rank] += 1
        return self.asked[rank] >= self.answers[rank]


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int, Any], None]:
    def make(world: int, mine: int, store: Any) -> None:
        def found() -> Any:
            if isinstance(store, Exception):
                raise store
            return store

        monkeypatch.setattr(distributed, "ROLL_CALL_SECONDS", 0.5)
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: world)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: mine)
        monkeypatch.setattr(torch.distributed.distributed_c10d, "_get_default_store", found)

    return make


def lost(error: Exception) -> str:
    with pytest.raises(ProcessLost) as caught, naming_lost_processes(lambda: "go on so"):
        raise error
    return str(caught.value)


def test_ranks_that_do_not_answer_are_named(group: Callable[[int, int, Any], None]) -> None:
    store = Store({0: 1, 3: 2})
    group(4, 1, store)
    assert lost(RuntimeError("Connection closed by peer")) == "process 2 of 4 (rank) ended or does not answer; go on so"
    assert store.said == ["ldeq-survivor-1"]
    group(4, 0, Store({2: 1}))
    assert lost(RuntimeError("gloo: timed out")) == "processes 1, 3 of 4 (rank) ended or does not answer; go on so"
    group(3, 0, Store({1: 1, 2: 2}))
    assert lost(RuntimeError("broken pipe\nand more")) == "the processes lost each other (broken pipe); go on so"


def test_a_store_that_went_with_its_process_names_the_first_of_two(group: Callable[[int, int, Any], None]) -> None:
    gone = RuntimeError("the store is gone")
    group(2, 1, gone)
    assert lost(RuntimeError("NCCL error")).startswith("process 0 of 2 (rank) ended")
    for world, mine in ((2, 0), (3, 1)):
        group(world, mine, gone)
        assert lost(RuntimeError("NCCL error")) == "the processes lost each other (NCCL error); go on so"


def test_other_errors_and_single_processes_pass(group: Callable[[int, int, Any], None]) -> None:
    group(2, 1, Store({}))
    with pytest.raises(RuntimeError, match="^size mismatch$"), naming_lost_processes(lambda: ""):
        raise RuntimeError("size mismatch")
    group(1, 0, Store({}))
    with pytest.raises(RuntimeError, match="^connection reset$") as caught, naming_lost_processes(lambda: ""):
        raise RuntimeError("connection reset")
    assert not isinstance(caught.value, ProcessLost)
