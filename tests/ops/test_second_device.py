"""Work on cuda:1 while cuda:0 is current, on stand-ins for the devices: what is started there is waited for there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from ldeq.ops import triton_library
from ldeq.solvers import polling

SECOND = torch.device("cuda", 1)


class Number:
    """A count on the second GPU, and its copy on the host."""

    dtype, device = torch.int64, SECOND

    def copy_(self, source: Number, non_blocking: bool) -> Number:
        assert source.device == SECOND and non_blocking
        return self

    def __int__(self) -> int:
        return 3


def test_a_poll_waits_for_the_device_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event on the current device's stream would be over at once, and the host read memory that is not there yet."""
    recorded: list[object] = []

    class Event:
        def record(self, stream: object) -> None:
            recorded.append(stream)

        def synchronize(self) -> None:
            recorded.append("waited")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: ("stream", device))
    monkeypatch.setattr(torch, "empty", lambda *_, **__: Number())
    read = polling.Poll._read_later(Number())
    assert recorded == [("stream", SECOND)]
    assert read() == 3 and recorded[-1] == "waited"


class OnSecond(torch.Tensor):
    """Says that it is on the second GPU."""

    is_cuda = True
    device = SECOND


def test_triton_launches_on_the_device_of_the_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    current = [torch.device("cuda", 0)]

    @contextmanager
    def device(which: torch.device) -> Iterator[None]:
        current.append(which)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", device)
    launch = triton_library._on_its_device(lambda *_: current[-1])
    tensor = torch.Tensor._make_subclass(OnSecond, torch.zeros(2))
    assert launch(None, 0.5, tensor) == SECOND
    assert current == [torch.device("cuda", 0)]


@pytest.fixture
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(triton_library, "interpreted", lambda: False)
    triton_library.missing.cache_clear()
    yield
    triton_library.missing.cache_clear()


def test_without_a_c_compiler_triton_is_left_out_with_a_reason(a_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would fail at the first launch, when the choice of a backend is long made."""
    pytest.importorskip("triton")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert triton_library.missing() == "triton finds no C compiler; install gcc, or set CC to one"


def test_with_a_home_that_cannot_be_written_triton_is_left_out_with_a_reason(
    a_gpu: None, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv("CC", "cc")
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "file" / "cache"))
    reason = triton_library.missing()
    assert reason is not None and "cannot write to" in reason and "TRITON_CACHE_DIR" in reason
    triton_library.missing.cache_clear()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "new" / "cache"))
    assert triton_library.missing() is None
    assert not (tmp_path / "new").exists()
