"""How many threads torch computes with: what the process may use, and what is free.

Torch takes a thread for every core of the machine. In a container that may use two of 64 cores, or beside another busy
process, that is worse than too few: every operator waits for its slowest thread.

Commands that find landmarks choose at their start, and `ThreadTuner` looks again in long videos. The library leaves torch's
setting alone unless it is asked: ``Landmarker.load(..., threads="auto")``.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

CGROUP = Path("/sys/fs/cgroup")
PROC = Path("/proc")

# More than this gain nothing for a face or four: the operators of the shipped model are small.
MOST = 8


@dataclass(frozen=True)
class ThreadChoice:
    """How many threads, and why.

    Attributes:
        count: at least 1.
        reason: in a few words, for ``ldeq doctor``.
        most: how many the process may use once nobody else is busy.
        fixed: whether the user set it, so that nothing may change it.
    """

    count: int
    reason: str
    most: int
    fixed: bool = False


def choose_threads(
    cgroup: Path = CGROUP, proc: Path = PROC, environment: dict[str, str] | None = None, *, gives_way: bool = False
) -> ThreadChoice:
    """The number of threads for inference in this process.

    The user's ``OMP_NUM_THREADS`` decides where it is set. Otherwise it is the smallest of the cores that the process may run
    on, the processor time that its container may take, and the cores that nobody else keeps busy, but at least 1.

    Args:
        cgroup: where control groups are mounted.
        proc: where ``/proc`` is.
        environment: the process's if None.
        gives_way: whether what computes takes the cores that it gets, and waits for no thread that got none: onnxruntime
            beside sleeping threads of torch. What others keep busy does not count then. A full solve of small-68 beside one
            and two busy loops on two cores: 12 and 15 ms with two threads, 15 and 23 with one.
    """
    asked = (os.environ if environment is None else environment).get("OMP_NUM_THREADS", "")
    first = asked.split(",")[0].strip()  # one number for each level of nesting
    if first.isdecimal() and int(first) > 0:
        return ThreadChoice(int(first), f"OMP_NUM_THREADS={asked}", int(first), fixed=True)
    cores = usable_cores()
    limits = [(cores, f"{cores} core{'s' * (cores != 1)} may be used"), (MOST, "more gain nothing")]
    quota = cpu_quota(cgroup, proc)
    if quota is not None:
        limits.append((max(1, int(quota)), f"the container may take {quota:g} cores"))
    most = min(limit for limit, _ in limits)
    busy, machine = None if gives_way else others_busy(proc), os.cpu_count() or cores
    if busy:
        limits.append((max(1, machine - busy), f"other work keeps {min(busy, machine)} of {machine} cores busy"))
    count, reason = min(limits, key=lambda limit: limit[0])
    return ThreadChoice(count, reason, most)


def apply_threads(choice: ThreadChoice) -> None:
    """Sets torch's number of threads."""
    if torch.get_num_threads() != choice.count:
        torch.set_num_threads(choice.count)


def limit_to_quota(cgroup: Path = CGROUP, proc: Path = PROC, environment: dict[str, str] | None = None) -> None:
    """Gives torch no more threads than the container may take cores, for training; ``OMP_NUM_THREADS`` decides if it is set.

    Torch counts the cores that it may run on and does not see such a limit: 64 threads that share the time of two cores
    wait for each other all the time. Other work is not counted, since it may end long before a training does.
    """
    quota = cpu_quota(cgroup, proc)
    if quota is not None and not (os.environ if environment is None else environment).get("OMP_NUM_THREADS"):
        most = max(1, int(quota))
        if most < torch.get_num_threads():
            torch.set_num_threads(most)


def usable_cores() -> int:
    """Cores that this process may run on: taskset, cpuset and job managers narrow them."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def cpu_quota(cgroup: Path = CGROUP, proc: Path = PROC) -> float | None:
    """Cores' worth of time that the container may take, the tightest of all groups above the process; None without a limit."""
    quotas = [quota for folder in _groups(cgroup, proc) if (quota := _quota_of(folder)) is not None]
    return min(quotas, default=None)


def others_busy(proc: Path = PROC) -> int | None:
    """How many other processes or threads run at this moment, on the whole machine; None where the system does not say.

    The load average is of the last minute, and this command's own start is in it; this is now.
    """
    counts = []
    for _ in range(5):
        try:
            running = (proc / "loadavg").read_text().split()[3].partition("/")[0]
            counts.append(int(running) - 1)  # without the reader itself
        except (OSError, IndexError, ValueError):
            return None
        time.sleep(0.004)
    return max(0, round(statistics.median(counts)))


def _groups(cgroup: Path, proc: Path) -> list[Path]:
    """The folders of the control groups that hold this process, and of all groups above them: version 2, and 1."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        lines = []
    folders = [cgroup, cgroup / "cpu", cgroup / "cpu,cpuacct"]  # inside a container its own group is often mounted here
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number != "0" and "cpu" not in controllers.split(","):
            continue
        for root in (cgroup,) if number == "0" else (cgroup / controllers, cgroup / "cpu"):
            inside = root / path.lstrip("/")
            while ".." not in inside.parts and inside not in (root, inside.parent):
                folders.append(inside)
                inside = inside.parent
    return list(dict.fromkeys(folders))


def _quota_of(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        cores = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # "max", or no such group
        return None
    return cores if cores > 0 else None


class ThreadTuner:
    """Looks during a long run whether one thread is faster than several, as beside a busy process, and takes what is faster.

    Every `every` calls it times a few with the other number. The median counts: a single slow call says nothing.
    """

    def __init__(
        self, choice: ThreadChoice, every: int = 150, samples: int = 5, set_threads: Callable[[int], None] | None = None
    ) -> None:
        """
        Args:
            choice: what was chosen at the start; nothing is changed if it was the user's, or can only be one thread.
            every: calls between two looks.
            samples: calls with each number in a look, the first of which is not counted.
            set_threads: sets the number; torch's if None.
        """
        self.choice, self.count = choice, choice.count
        self._every, self._samples = every, samples
        self._set = set_threads or torch.set_num_threads
        # The first look comes early: what is busy now may stay so.
        self._calls, self._other = max(0, every - 2 * samples - 10), 0
        self._times: dict[int, list[float]] = {}
        self.active = not choice.fixed and choice.most > 1

    def add(self, seconds: float) -> None:
        """Takes the time of a call."""
        if not self.active:
            return
        self._calls += 1
        place = self._calls % self._every
        if place < self._every - 2 * self._samples:
            return
        # The last calls of each round: first as it is, then with the other number.
        trial = place >= self._every - self._samples
        running = self._other if trial and self._other else self.count
        self._times.setdefault(running, []).append(seconds)
        if place == self._every - self._samples - 1:
            self._other = 1 if self.count > 1 else self.choice.most
            self._set(self._other)
        elif place == self._every - 1:
            self._decide()

    def _decide(self) -> None:
        medians = {count: statistics.median(times[1:]) for count, times in self._times.items() if len(times) > 1}
        if medians:
            self.count = min(medians, key=lambda count: medians[count])
        self._set(self.count)
        self._times, self._other = {}, 0
