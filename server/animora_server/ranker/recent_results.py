"""Results of a moment ago, for those who looked for them before they were stored."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")

ENTRY_BYTES = 256  # what a result takes beside its value, roughly


class RecentResults(Generic[Value]):
    """Results by key, each for a moment: until a look-up that began before it was stored has surely ended.

    Args:
        seconds: How long a result is kept.
        max_bytes: What all of them take at most; the oldest go first.
        clock: Seconds.
    """

    def __init__(self, seconds: float, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._clock = clock
        self._bytes = 0
        self._results: OrderedDict[bytes, tuple[float, int, Value]] = OrderedDict()

    def find(self, key: bytes) -> Value | None:
        """The result of a key, if there was one a moment ago."""
        found = self._results.get(key)
        return found[2] if found is not None and found[0] > self._clock() else None

    def add(self, key: bytes, value: Value, size: int) -> None:
        """Keeps a result, whose value takes so many bytes."""
        now = self._clock()
        if key in self._results:
            self._bytes -= self._results.pop(key)[1]
        size += ENTRY_BYTES
        self._results[key] = (now + self._seconds, size, value)
        self._bytes += size
        while self._results:
            ends_at, oldest, _ = next(iter(self._results.values()))
            if ends_at > now and self._bytes <= self._max_bytes:
                break
            self._results.popitem(last=False)
            self._bytes -= oldest
