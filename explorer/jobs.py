"""Computations requested on pages, run through the command line: one at a time, with a short queue and time limits."""

import re
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Protocol

from explorer.errors import BadRequestError, LimitError

MAX_WAITING = 8
MAX_PROMPT = 2000
KEPT = 50
"""Number of finished jobs that are listed."""


class Attribute(Protocol):
    """Writes the attribution graph of a prompt to a file, and reports progress.

    Raises:
        ValueError: says why it cannot.
    """

    def __call__(self, checkpoint_id: str, prompt: str, output: Path, tell: Callable[[str], None]) -> None: ...


@dataclass(frozen=True)
class Job:
    """One prompt, and the progress of its graph."""

    number: int
    checkpoint_id: str
    prompt: str
    name: str
    """Name of the graph."""
    status: str = "waiting"
    """waiting, running, done or failed."""
    said: str = ""
    """The progress, or the reason of a failure."""
    began: datetime | None = None
    ended: datetime | None = None

    @property
    def elapsed_s(self) -> float | None:
        """Seconds since the job began, or that it took; None before it began."""
        if self.began is None:
            return None
        return ((self.ended or datetime.now(UTC)) - self.began).total_seconds()


class Jobs:
    """The queue. One thread works through it while it has jobs."""

    def __init__(self, attribute: Attribute, folder: Path) -> None:
        self._attribute = attribute
        self._folder = folder
        self._lock = threading.Lock()
        self._waiting: deque[int] = deque()
        self._jobs: dict[int, Job] = {}
        self._working = False

    @property
    def jobs(self) -> list[Job]:
        """All listed jobs, the newest first."""
        with self._lock:
            return sorted(self._jobs.values(), key=lambda job: -job.number)

    def add(self, checkpoint_id: str, prompt: str) -> Job:
        """Append a prompt to the queue.

        Raises:
            BadRequestError: the prompt is empty or too long.
            LimitError: the queue is full.
        """
        if not prompt.strip() or len(prompt) > MAX_PROMPT:
            raise BadRequestError(f"the prompt has {len(prompt)} characters; 1 to {MAX_PROMPT} are taken")
        with self._lock:
            if len(self._waiting) >= MAX_WAITING:
                raise LimitError(f"{MAX_WAITING} prompts are already waiting; try again when one is finished")
            number = max(self._jobs, default=0) + 1
            job = Job(number, checkpoint_id, prompt, self._free_name(prompt))
            self._jobs[number] = job
            self._waiting.append(number)
            for old in [n for n, one in self._jobs.items() if one.status in ("done", "failed")][:-KEPT]:
                del self._jobs[old]
            if not self._working:
                self._working = True
                threading.Thread(target=self._work, daemon=True).start()
        return job

    def _free_name(self, prompt: str) -> str:
        """An unused name for a graph, from the prompt's last words."""
        slug = re.sub(r"[^a-z0-9]+", "-", prompt.lower(), flags=re.ASCII).strip("-")[-40:].strip("-") or "prompt"
        taken = {job.name for job in self._jobs.values()} | {path.stem for path in self._folder.glob("*.json")}
        return next(name for n in range(1, 10_000) if (name := slug if n == 1 else f"{slug}-{n}") not in taken)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._working = False
                    return
                number = self._waiting.popleft()
            self._change(number, status="running", began=datetime.now(UTC))
            job = self._jobs[number]
            try:
                output = self._folder / f"{job.name}.json"
                self._attribute(job.checkpoint_id, job.prompt, output, partial(self._tell, number))
                self._change(number, status="done", said="", ended=datetime.now(UTC))
            except (ValueError, OSError) as error:
                self._change(number, status="failed", said=str(error)[:2000], ended=datetime.now(UTC))

    def _tell(self, number: int, said: str) -> None:
        self._change(number, said=said)

    def _change(self, number: int, **what: object) -> None:
        with self._lock:
            self._jobs[number] = replace(self._jobs[number], **what)  # pyright: ignore[reportArgumentType]
