"""How many threads: containers, affinity, the user's word, and what is busy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from ldeq import Landmarker
from ldeq.cli import main
from ldeq.errors import LdeqError
from ldeq.landmarker import threads_for
from ldeq.threads import ThreadChoice, ThreadTuner, choose_threads, cpu_quota, limit_to_quota, others_busy, usable_cores


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    """Empty /sys/fs/cgroup and /proc of a quiet machine."""
    cgroup, proc = tmp_path / "cgroup", tmp_path / "proc"
    cgroup.mkdir()
    (proc / "self").mkdir(parents=True)
    running(proc, 1)
    return cgroup, proc


def running(proc: Path, count: int) -> None:
    (proc / "loadavg").write_text(f"0.50 0.40 0.30 {count}/345 9999\n")


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 16 cores."""
    monkeypatch.setattr("ldeq.threads.usable_cores", lambda: 16)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)


def test_without_a_limit_there_is_none(trees: tuple[Path, Path]) -> None:
    assert cpu_quota(*trees) is None
    assert cpu_quota(trees[0] / "absent", trees[1] / "absent") is None


def test_the_quota_of_a_container_of_version_2_is_respected(trees: tuple[Path, Path]) -> None:
    cgroup, proc = trees
    write(cgroup, cpu__max="max 100000")
    assert cpu_quota(cgroup, proc) is None
    write(cgroup, cpu__max="250000 100000")
    assert cpu_quota(cgroup, proc) == 2.5


def test_the_tightest_group_above_the_process_counts(trees: tuple[Path, Path]) -> None:
    cgroup, proc = trees
    write(proc / "self", cgroup="0::/kube/pod/box")
    write(cgroup / "kube", cpu__max="800000 100000")
    write(cgroup / "kube" / "pod", cpu__max="150000 100000")
    write(cgroup / "kube" / "pod" / "box", cpu__max="max 100000")
    write(cgroup / "kube" / "other", cpu__max="10000 100000")
    assert cpu_quota(cgroup, proc) == 1.5


@pytest.mark.parametrize("folder", ["cpu", "cpu,cpuacct"])
def test_the_quota_of_a_container_of_version_1_is_respected(trees: tuple[Path, Path], folder: str) -> None:
    cgroup, proc = trees
    write(proc / "self", cgroup=f"9:memory:/docker/a\n2:{folder}:/docker/a\n1:cpuset:/docker/b")
    write(cgroup / folder / "docker" / "a", cpu__cfs_quota_us="300000", cpu__cfs_period_us="100000")
    assert cpu_quota(cgroup, proc) == 3
    write(cgroup / folder / "docker" / "a", cpu__cfs_quota_us="-1")
    assert cpu_quota(cgroup, proc) is None
    # Inside the container its own group is what is mounted.
    write(cgroup / folder, cpu__cfs_quota_us="50000", cpu__cfs_period_us="100000")
    assert cpu_quota(cgroup, proc) == 0.5


@pytest.mark.parametrize("text", ["", "max", "many 100000", "100000 0", "-5 100000", "100000"])
def test_a_group_that_says_nothing_sensible_is_no_limit(trees: tuple[Path, Path], text: str) -> None:
    cgroup, proc = trees
    write(cgroup, cpu__max=text)
    assert cpu_quota(cgroup, proc) is None
    write(proc / "self", cgroup="nonsense\n0::/../../..\n:::")
    assert cpu_quota(cgroup, proc) is None


@pytest.mark.usefixtures("cores")
@pytest.mark.parametrize(
    ("quota", "busy", "count", "reason"),
    [
        ("max 100000", 0, 8, "more gain nothing"),
        ("250000 100000", 0, 2, "the container may take 2.5 cores"),
        ("50000 100000", 0, 1, "the container may take 0.5 cores"),
        ("max 100000", 12, 4, "other work keeps 12 of 16 cores busy"),
        ("max 100000", 99, 1, "other work keeps 16 of 16 cores busy"),
        ("200000 100000", 12, 2, "the container may take 2 cores"),
    ],
)
def test_threads_are_what_may_be_used_and_is_free(
    trees: tuple[Path, Path], quota: str, busy: int, count: int, reason: str
) -> None:
    cgroup, proc = trees
    write(cgroup, cpu__max=quota)
    running(proc, 1 + busy)
    choice = choose_threads(cgroup, proc, {})
    assert (choice.count, choice.reason, choice.fixed) == (count, reason, False)
    assert 1 <= choice.count <= choice.most <= 8


@pytest.mark.usefixtures("cores")
@pytest.mark.parametrize(("text", "count"), [("3", 3), ("12,2", 12), ("0", 8), ("many", 8), ("", 8), ("-2", 8)])
def test_the_users_number_of_threads_stands(trees: tuple[Path, Path], text: str, count: int) -> None:
    choice = choose_threads(*trees, {"OMP_NUM_THREADS": text})
    assert choice.count == count
    assert choice.fixed is (text in ("3", "12,2"))


@pytest.mark.parametrize(
    ("quota", "asked", "expected"),
    [
        ("max 100000", None, 6),
        ("250000 100000", None, 2),
        ("50000 100000", None, 1),
        ("900000 100000", None, 6),
        ("250000 100000", "5", 6),
    ],
)
def test_a_training_takes_no_more_threads_than_its_container_has_cores(
    trees: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, quota: str, asked: str | None, expected: int
) -> None:
    threads = [6]
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads[-1])
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    write(trees[0], cpu__max=quota)
    limit_to_quota(*trees, {} if asked is None else {"OMP_NUM_THREADS": asked})
    assert threads[-1] == expected


def test_a_process_pinned_to_a_core_takes_one_thread(trees: tuple[Path, Path]) -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system cannot pin a process")
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
        assert choose_threads(*trees, {}).count == 1
    finally:
        os.sched_setaffinity(0, before)


def test_where_the_system_does_not_say_nothing_is_assumed_busy(tmp_path: Path) -> None:
    assert others_busy(tmp_path) is None
    (tmp_path / "loadavg").write_text("0.1 0.2\n")
    assert others_busy(tmp_path) is None
    running(tmp_path, 4)
    assert others_busy(tmp_path) == 3


def simulate(tuner: ThreadTuner, seconds: dict[int, float], calls: int, now: list[int]) -> list[int]:
    used = []
    for _ in range(calls):
        used.append(now[0])
        tuner.add(seconds[now[0]])
    return used


def test_a_long_run_takes_one_thread_beside_a_busy_process_and_goes_back(trees: tuple[Path, Path]) -> None:
    now = [2]
    tuner = ThreadTuner(ThreadChoice(2, "", 2), every=50, samples=5, set_threads=lambda n: now.__setitem__(0, n))
    simulate(tuner, {1: 0.027, 2: 0.051}, 25, now)
    assert now == [1]
    used = simulate(tuner, {1: 0.027, 2: 0.051}, 500, now)
    assert used.count(2) <= 0.11 * len(used)  # the looks alone
    simulate(tuner, {1: 0.025, 2: 0.016}, 60, now)
    assert now == [2]


def test_a_quiet_machine_keeps_its_threads_and_a_single_slow_call_says_nothing() -> None:
    now = [2]
    tuner = ThreadTuner(ThreadChoice(2, "", 2), every=50, samples=5, set_threads=lambda n: now.__setitem__(0, n))
    used = simulate(tuner, {1: 0.025, 2: 0.016}, 500, now)
    assert used.count(1) <= 0.11 * len(used)
    for call in range(200):
        tuner.add(5.0 if call % 50 == 41 else {1: 0.025, 2: 0.016}[now[0]])
    assert tuner.count == 2


def test_a_start_at_a_busy_moment_does_not_last() -> None:
    now = [1]
    tuner = ThreadTuner(ThreadChoice(1, "busy", 2), every=50, samples=5, set_threads=lambda n: now.__setitem__(0, n))
    simulate(tuner, {1: 0.025, 2: 0.016}, 30, now)
    assert now == [2]


@pytest.mark.parametrize("choice", [ThreadChoice(2, "", 2, fixed=True), ThreadChoice(1, "", 1)])
def test_what_the_user_set_is_not_changed(choice: ThreadChoice) -> None:
    changes: list[int] = []
    tuner = ThreadTuner(choice, every=20, samples=3, set_threads=changes.append)
    for _ in range(100):
        tuner.add(1.0)
    assert changes == []


def test_the_library_leaves_torchs_threads_alone_unless_it_is_asked() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert Landmarker.load("small-68", "cpu").threads is None
        assert torch.get_num_threads() == 3
        assert Landmarker.load("small-68", "cpu", threads=1).threads == ThreadChoice(1, "asked for", 1, fixed=True)
        assert torch.get_num_threads() == 1
        chosen = Landmarker.load("small-68", "cpu", threads="auto").threads
        assert chosen is not None and torch.get_num_threads() == chosen.count
        for bad in (0, -1, "many", 1.5):
            with pytest.raises(LdeqError, match="threads must be"):
                Landmarker.load("small-68", "cpu", threads=bad)  # type: ignore[arg-type]
    finally:
        torch.set_num_threads(before)


def test_doctor_says_how_many_threads_are_taken_and_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert main(["doctor"]) == 0
    assert "OMP_NUM_THREADS=5" in capsys.readouterr().out


def test_what_gives_way_takes_all_cores_beside_other_work(trees: tuple[Path, Path], cores: None) -> None:
    running(trees[1], 100)
    assert choose_threads(*trees, {}).count == 1
    assert choose_threads(*trees, {}, gives_way=True).count == 8
    write(trees[0], cpu__max="200000 100000")
    assert choose_threads(*trees, {}, gives_way=True).count == 2
    assert choose_threads(*trees, {"OMP_NUM_THREADS": "3"}, gives_way=True).count == 3


@pytest.mark.parametrize(
    ("engine", "policy", "expected"),
    [
        ("onnxruntime", "passive", True),
        ("onnxruntime", "PASSIVE", True),
        ("onnxruntime", "active", False),
        ("torch", "passive", False),
    ],
)
def test_only_onnxruntime_beside_sleeping_threads_gives_way(
    engine: str, policy: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    monkeypatch.setattr("ldeq.landmarker.choose_threads", lambda gives_way: asked.append(gives_way))
    threads_for(engine)
    assert asked == [expected]
