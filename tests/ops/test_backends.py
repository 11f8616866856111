from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

import ldeq.ops
from ldeq.ops import BackendError, available_backends, backends, current_backend, softargmax, use_backend

ABSENT = [name for name, reason in available_backends().items() if reason != "available"]


@pytest.fixture(autouse=True)
def _leave_the_choice_as_it_was() -> Iterator[None]:
    before = current_backend()
    yield
    use_backend(before)


def test_a_plain_call_stays_in_force() -> None:
    use_backend("torch")
    assert current_backend() == "torch"
    use_backend("auto")
    assert current_backend() == "auto"


def test_a_block_restores_what_was_before_it() -> None:
    use_backend("torch")
    with use_backend("auto"):
        assert current_backend() == "auto"
        with use_backend("torch"):
            assert current_backend() == "torch"
        assert current_backend() == "auto"
    assert current_backend() == "torch"


def test_a_block_that_raises_restores_too() -> None:
    with pytest.raises(KeyError), use_backend("torch"):
        raise KeyError
    assert current_backend() == "auto"


def test_a_kept_choice_holds_when_its_block_is_entered() -> None:
    choice = use_backend("torch")
    use_backend("auto")
    for _ in range(2):
        with choice:
            assert current_backend() == "torch"
        assert current_backend() == "auto"


def test_a_choice_stays_in_its_thread() -> None:
    seen = []
    with use_backend("torch"):
        thread = threading.Thread(target=lambda: seen.append(current_backend()))
        thread.start()
        thread.join()
    assert seen == ["auto"]


@pytest.mark.parametrize("name", ["Torch", "gpu", ""])
def test_an_unknown_name_is_refused_and_changes_nothing(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}'.*auto, cuda, triton, cpu, torch"):
        use_backend(name)
    assert current_backend() == "auto"


@pytest.mark.parametrize("name", ABSENT)
def test_an_absent_backend_by_name_raises_with_the_reason(name: str) -> None:
    with pytest.raises(BackendError) as caught:
        use_backend(name)
    assert name in str(caught.value)
    assert available_backends()[name] in str(caught.value)
    assert current_backend() == "auto"
    with pytest.raises(BackendError, match=name):
        softargmax(torch.zeros(1, 1, 2, 2), backend=name)


def test_every_backend_has_a_state_or_a_reason() -> None:
    states = available_backends()
    assert set(states) == {"cuda", "triton", "cpu", "torch"}
    assert states["torch"] == "available"
    assert all(states.values())


def test_the_named_backend_is_the_one_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {"torch": lambda: "torch", "cpu": lambda: "cpu", "cuda": lambda: "cuda"}
    monkeypatch.setitem(backends._implementations, "probe", table)
    tensor = torch.zeros(1)
    assert backends.implementation("probe", tensor)() == "cpu"
    assert backends.implementation("probe", tensor, "torch")() == "torch"
    with use_backend("torch"):
        assert backends.implementation("probe", tensor)() == "torch"
        assert backends.implementation("probe", tensor, "cpu")() == "cpu"


def test_a_backend_without_the_operator_does_not_fall_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backends._implementations, "probe", {"torch": lambda: "torch"})
    with pytest.raises(BackendError, match=r"'cpu' has no 'probe'.*torch"):
        backends.implementation("probe", torch.zeros(1), "cpu")
    assert backends.implementation("probe", torch.zeros(1), "auto")() == "torch"


def test_the_public_names_are_there() -> None:
    for name in ldeq.ops.__all__:
        assert hasattr(ldeq.ops, name)
