"""Progress of a command: a live line in a terminal, an occasional line in a log.

Imports little but `rich`, so that it can show progress while the rest is being imported.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from flows.running.terminal import Terminal

SILENCE_S = 5.0
"""A log gets a line at least this often, in seconds."""

SHOW_CURSOR = "\x1b[?25h"
"""Escape codes sent to a terminal when the process is ended while a live line is shown."""

console = Terminal(stderr=True)


class Step:
    """A step of the work, with `total` parts if they can be counted."""

    def __init__(self, title: str, total: int | None) -> None:
        self.title, self.total, self.done = title, total, 0
        self.began = time.monotonic()
        self.bar: TaskID | None = None

    @property
    def seconds(self) -> float:
        """Seconds since the step began."""
        return time.monotonic() - self.began

    def advance(self, done: int) -> None:
        """Add this many finished parts."""
        self.done = done
        if self.bar is not None:
            _display.progress.update(self.bar, completed=done)

    @property
    def text(self) -> str:
        """The text for a log while the step is running."""
        parts = "" if self.total is None else f"{self.done} of {self.total}, "
        return f"{self.title}: {parts}{self.seconds:.0f} s"


class _CountColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if task.total is None else f"{int(task.completed)}/{int(task.total)}")


class _Display:
    """Nested steps, of which the innermost is shown."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.lock = threading.RLock()
        self.spoke = 0.0
        self.progress = Progress(
            SpinnerColumn(), TextColumn("{task.description:<28}", markup=False), BarColumn(), _CountColumn(),
            TimeElapsedColumn(), TimeRemainingColumn(),
            console=console, transient=True, redirect_stdout=False, disable=not console.is_terminal,
        )  # fmt: skip

    def enter(self, step: Step) -> None:
        with self.lock:
            if self.steps:
                self._hide(self.steps[-1])
            self.steps.append(step)
            self._show(step)
            if len(self.steps) == 1:
                self.progress.start()
                if not console.is_terminal:
                    threading.Thread(target=self._speak_up, daemon=True).start()
        if step.total is None and not console.is_terminal:
            self.say(f"{step.title} …")

    def leave(self, step: Step, *, is_done: bool) -> None:
        with self.lock:
            self._hide(step)
            self.steps.remove(step)
            if is_done and step.total is not None:
                self.say(f"{step.title}: {step.total} done, {step.seconds:.1f} s")
            if self.steps:
                self._show(self.steps[-1])
            else:
                self.progress.stop()

    def say(self, line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
        self.spoke = time.monotonic()

    def _show(self, step: Step) -> None:
        step.bar = self.progress.add_task(step.title, total=step.total, completed=step.done)

    def _hide(self, step: Step) -> None:
        if step.bar is not None:
            self.progress.remove_task(step.bar)
            step.bar = None

    def _speak_up(self) -> None:
        while self.steps:
            with self.lock:
                if self.steps and time.monotonic() - self.spoke >= SILENCE_S:
                    self.say(self.steps[-1].text)
            time.sleep(0.5)


_display = _Display()


@contextmanager
def working(title: str, total: int | None = None) -> Iterator[Step]:
    """Show a step while it is running; if it has a total, its duration is shown at the end."""
    step = Step(title, total)
    _display.enter(step)
    is_done = False
    try:
        yield step
        is_done = True
    finally:
        _display.leave(step, is_done=is_done)
