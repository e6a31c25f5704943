"""Values that cost much to read, kept in memory while they are in use."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

Value = TypeVar("Value")


class LRUCache(Generic[Value]):
    """The values used last, up to `max_bytes` in all, or one that is larger. Threads may share it.

    What is held must never change: a key names one value for good.
    """

    def __init__(self, max_bytes: int, size_of: Callable[[Value], int]) -> None:
        self.max_bytes = max_bytes
        self.n_bytes = 0
        self._size_of = size_of
        self._held: OrderedDict[Hashable, Value] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, read: Callable[[], Value]) -> Value:
        """The value of a key, read if it is not held. Two threads that miss it at once both read."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        value = read()
        with self._lock:
            if key not in self._held:
                self._held[key] = value
                self.n_bytes += self._size_of(value)
            while self.n_bytes > self.max_bytes and len(self._held) > 1:
                _, oldest = self._held.popitem(last=False)
                self.n_bytes -= self._size_of(oldest)
        return value

    def clear(self) -> None:
        """Let go of all."""
        with self._lock:
            self._held.clear()
            self.n_bytes = 0
