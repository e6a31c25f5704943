"""A cache in memory for values that are expensive to read."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

Value = TypeVar("Value")


class LRUCache(Generic[Value]):
    """LRU cache bounded by bytes; it always keeps the newest value, even one larger than `max_bytes`. Thread-safe.

    Cached values must never change: a key names one value for good.
    """

    def __init__(self, max_bytes: int, size_of: Callable[[Value], int]) -> None:
        self.max_bytes = max_bytes
        self.n_bytes = 0
        self._size_of = size_of
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, read: Callable[[], Value]) -> Value:
        """The value of a key, read if it is not in the cache. Two threads that miss it at the same time both read
        it."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = read()
        with self._lock:
            if key not in self._values:
                self._values[key] = value
                self.n_bytes += self._size_of(value)
            while self.n_bytes > self.max_bytes and len(self._values) > 1:
                _, oldest = self._values.popitem(last=False)
                self.n_bytes -= self._size_of(oldest)
        return value

    def clear(self) -> None:
        """Empty the cache."""
        with self._lock:
            self._values.clear()
            self.n_bytes = 0
