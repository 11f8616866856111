"""What a run tells its user: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import console as rich_console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# Without a terminal a line this often, in seconds: enough to see life in a log file.
PLAIN_INTERVAL = 20.0


class Console:
    """Prints for one process; silent where `enabled` is false (all but the first process of a distributed run)."""

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self.rich = rich_console.Console(quiet=not enabled, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        self.rich.print(text, markup=False)

    def warn(self, text: str) -> None:
        self.rich.print(f"warning: {text}", style="yellow", markup=False)

    @contextmanager
    def training(self, total: int, done: int) -> Iterator[TrainingDisplay]:
        """The display of a training run of `total` steps that starts at `done`."""
        if not (self.enabled and self.rich.is_terminal):
            yield PlainDisplay(self, total, done) if self.enabled else TrainingDisplay()
            return
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=self.rich,
        ) as progress:
            task = progress.add_task("training", total=total, completed=done, figures="")
            yield LiveDisplay(progress, task)

    @contextmanager
    def counting(self, description: str, total: int) -> Iterator[Callable[[int, int], None]]:
        """A bar for work that counts; yields the function that takes (done, total). Silent without a terminal."""
        if not (self.enabled and self.rich.is_terminal):
            yield lambda done, total: None
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.rich, transient=True) as progress:
            task = progress.add_task(description, total=total)
            yield lambda done, total: progress.update(task, completed=done, total=total)


class TrainingDisplay:
    """Takes the figures of each step; this one shows nothing."""

    def update(self, step: int, row: dict[str, float]) -> None:
        """Shows the figures of a step."""


class LiveDisplay(TrainingDisplay):
    """A bar with the latest figures, smoothed so that they can be read."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self.progress, self.task = progress, task
        self.smooth: dict[str, float] = {}

    def update(self, step: int, row: dict[str, float]) -> None:
        for key, value in row.items():
            self.smooth[key] = 0.9 * self.smooth.get(key, value) + 0.1 * value
        self.progress.update(self.task, completed=step, figures=figures(self.smooth))


class PlainDisplay(TrainingDisplay):
    """A line every `PLAIN_INTERVAL` seconds."""

    def __init__(self, console: Console, total: int, done: int) -> None:
        self.console, self.total, self.first = console, total, done + 1
        self.begin = self.last = 0.0

    def update(self, step: int, row: dict[str, float]) -> None:
        now = time.monotonic()
        if step == self.first:  # the clock starts here: what came before it does not recur
            self.begin = self.last = now
        if now - self.last < PLAIN_INTERVAL and step != self.total:
            return
        self.last = now
        left = (now - self.begin) / max(1, step - self.first) * (self.total - step)
        self.console.say(f"step {step}/{self.total}  {left / 60:.1f} min left  {figures(row)}")


def figures(row: dict[str, float]) -> str:
    """The figures of a step in a line."""
    return (
        f"loss {row['loss']:.4f}  NME {row['nme']:.2f} %  {row['images_per_s']:.1f} images/s  residual {row['residual']:.1e} "
        f"in {row['evaluations']:.1f} evaluations, {row['backward_evaluations']:.1f} back  {row['memory_mb']:.0f} MB"
    )
