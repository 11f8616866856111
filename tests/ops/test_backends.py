from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import torch

import ldeq.ops
from ldeq.ops import BackendError, available_backends, current_backend, dispatch, explain, softargmax, use_backend
from ldeq.ops.solve_step import AndersonStep

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
    monkeypatch.setitem(dispatch._implementations, "probe", table)
    tensor = torch.zeros(1)
    assert dispatch.implementation("probe", tensor)() == "cpu"
    assert dispatch.implementation("probe", tensor, "torch")() == "torch"
    with use_backend("torch"):
        assert dispatch.implementation("probe", tensor)() == "torch"
        assert dispatch.implementation("probe", tensor, "cpu")() == "cpu"


def test_a_backend_without_the_operator_does_not_fall_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(dispatch._implementations, "probe", {"torch": lambda: "torch"})
    with pytest.raises(BackendError, match=r"'cpu' cannot run 'probe': it has no 'probe'.*torch"):
        dispatch.implementation("probe", torch.zeros(1), "cpu")
    assert dispatch.implementation("probe", torch.zeros(1), "auto")() == "torch"


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine where every backend's libraries load, and an operator that all have."""
    monkeypatch.setattr(dispatch, "_missing", lambda name: None)
    monkeypatch.setitem(dispatch._implementations, "probe", dict.fromkeys(dispatch.PREFERENCE))


@pytest.mark.parametrize(
    ("device", "dtype", "taken"),
    [
        ("cuda", torch.float32, "cuda"),
        ("cpu", torch.float32, "cpu"),
        ("cpu", torch.float64, "cpu"),
        ("cpu", torch.float8_e4m3fn, "torch"),
        ("meta", torch.float32, "torch"),
        ("mps", torch.float32, "torch"),
    ],
)
def test_an_automatic_choice_takes_the_first_that_serves(pretended: None, device: str, dtype: torch.dtype, taken: str) -> None:
    assert dispatch._choose("probe", "auto", device, dtype) == (taken, None)


def test_triton_takes_over_where_the_cuda_kernels_cannot_load(pretended: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_missing", lambda name: "an old driver" if name == "cuda" else None)
    assert dispatch._choose("probe", "auto", "cuda", torch.bfloat16) == ("triton", None)
    # Triton's kernels are for float32 and half types.
    assert dispatch._choose("probe", "auto", "cuda", torch.float64) == ("torch", None)
    assert dispatch._refusal("probe", "cuda", "cuda", torch.float32, False) == "an old driver"
    monkeypatch.delitem(dispatch._implementations["probe"], "triton")
    assert dispatch._choose("probe", "auto", "cuda", torch.bfloat16) == ("torch", None)


@pytest.mark.parametrize(
    ("name", "device", "dtype", "says"),
    [
        ("cuda", "cpu", torch.float32, r"'cuda' cannot run 'probe': it cannot run on a tensor on cpu; move it with \.cuda\(\)"),
        ("cpu", "cuda", torch.float32, r"'cpu' cannot run 'probe': it cannot run on a tensor on cuda; move it with \.cpu\(\)"),
        ("triton", "cuda", torch.float64, r"'triton' cannot run 'probe': it does not serve torch\.float64"),
    ],
)
def test_a_named_backend_says_why_it_refuses(pretended: None, name: str, device: str, dtype: torch.dtype, says: str) -> None:
    _, refusal = dispatch._choose("probe", name, device, dtype)
    assert refusal is not None and re.search(says, refusal)


def test_the_interpreter_serves_those_who_name_it(pretended: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert dispatch._choose("probe", "auto", "cpu", torch.float32) == ("cpu", None)
    assert dispatch._choose("probe", "triton", "cpu", torch.float32) == ("triton", None)
    monkeypatch.delenv("TRITON_INTERPRET")
    assert "tensor on cpu" in str(dispatch._choose("probe", "triton", "cpu", torch.float32)[1])


def test_explain_names_what_serves_and_why_the_others_do_not() -> None:
    reasons = explain("softargmax", torch.zeros(1, 1, 2, 2))
    assert list(reasons) == ["cuda", "triton", "cpu", "torch"] and reasons["torch"] == "serves"
    assert "tensor on cpu" in reasons["cuda"]
    with pytest.raises(ValueError, match=r"unknown operator 'soft'.*softargmax"):
        explain("soft", torch.zeros(1))


def test_a_solve_by_name_runs_there_or_raises() -> None:
    """Not silently in plain PyTorch."""
    state = torch.zeros(1, 3)

    def compiled(tensor: torch.Tensor) -> bool:
        return AndersonStep(tensor).compiled

    with use_backend("torch"):
        assert not compiled(state)
    assert not compiled(state.to("meta"))
    if available_backends()["cpu"] == "available":
        with use_backend("cpu"):
            assert compiled(state)
            with pytest.raises(BackendError, match="'cpu' cannot run 'anderson_step'"):
                compiled(state.to("meta"))


def test_importing_the_package_imports_neither_triton_nor_dynamo() -> None:
    code = "import sys, ldeq, ldeq.ops; print([m for m in ('triton', 'torch._dynamo', 'ldeq.kernels') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_public_names_are_there() -> None:
    for name in ldeq.ops.__all__:
        assert hasattr(ldeq.ops, name)
