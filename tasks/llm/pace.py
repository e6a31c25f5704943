"""The number of questions that may be sent at the same time: fewer while the server is busy, more again later, and
never more than its headers allow."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SUCCESSES_TO_GROW = 8
"""Successive answers after which one more question may be sent at the same time."""


class Pace:
    """Shared by the threads that ask. If the server declines, the number is halved, and all wait as long as it says."""

    def __init__(self, most: int, sleep: Callable[[float], None] = time.sleep) -> None:
        self._most, self._allowed, self._running, self._successes = most, most, 0, 0
        self._room = most
        self._not_before = 0.0
        self._sleep = sleep
        self._changed = threading.Condition()

    @property
    def allowed(self) -> int:
        """Number of questions that may be outstanding now."""
        return min(self._allowed, self._room)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """A context for one request: wait until it is allowed, and count it while it runs."""
        with self._changed:
            self._changed.wait_for(lambda: self._running < self.allowed)
            self._running += 1
            pause = self._not_before - time.monotonic()
        try:
            if pause > 0:
                self._sleep(pause)
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def answered(self) -> None:
        """Record an answer."""
        with self._changed:
            self._successes += 1
            if self._successes >= SUCCESSES_TO_GROW and self._allowed < self._most:
                self._allowed, self._successes = self._allowed + 1, 0
                self._changed.notify_all()

    def limited(self, n_questions: int, reset_s: float) -> None:
        """Apply the server's limits: it accepts `n_questions` now, and more after `reset_s` seconds."""
        with self._changed:
            self._room = min(self._most, max(1, n_questions))
            if n_questions == 0:
                self._not_before = max(self._not_before, time.monotonic() + reset_s)
            self._changed.notify_all()

    def declined(self, wait_s: float) -> None:
        """Record that the server was busy and asked for a wait of this many seconds."""
        with self._changed:
            self._allowed, self._successes = max(1, self._allowed // 2), 0
            self._not_before = max(self._not_before, time.monotonic() + wait_s)
