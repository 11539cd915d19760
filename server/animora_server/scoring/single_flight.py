"""Single-flight: one computation a key at a time for all callers; and the results of the last second."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")

ENTRY_BYTES = 256  # approximate memory of an entry without its value


@dataclass(eq=False, slots=True)
class _Flight(Generic[Value]):
    task: asyncio.Task[Value]
    waiting: int = 0


class SingleFlight(Generic[Value]):
    """Shares a running computation among its callers.

    A caller that is cancelled does not cancel the computation for the other callers. The computation is
    cancelled with its last caller.
    """

    def __init__(self) -> None:
        self._flights: dict[bytes, _Flight[Value]] = {}

    def __contains__(self, key: bytes) -> bool:
        """Whether a computation of this key is running."""
        return key in self._flights

    async def run(self, key: bytes, compute: Callable[[], Coroutine[Any, Any, Value]]) -> Value:
        """Joins or starts the computation of this key; returns its result, or raises its error."""
        if key not in self._flights:
            self._flights[key] = _Flight(asyncio.create_task(compute()))
        flight = self._flights[key]
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting:
                flight.task.cancel()  # no effect on a task that is done
            if flight.task.done() or not flight.waiting:
                self._remove(key, flight)

    def _remove(self, key: bytes, flight: _Flight[Value]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]


class RecentResults(Generic[Value]):
    """Results by key, with a short time to live and a bound on memory; the oldest are evicted first.

    It closes the gap of `SingleFlight`: a look-up in the cache that misses may end after the computation of
    its key has ended and before the result can be read from the cache.

    Args:
        seconds: Time to live; longer than a look-up in the cache may take.
        max_bytes: The most memory that all results may take.
        clock: Seconds, monotonic.
    """

    def __init__(self, seconds: float, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._clock = clock
        self._bytes = 0
        self._results: OrderedDict[bytes, tuple[float, int, Value]] = OrderedDict()

    def find(self, key: bytes) -> Value | None:
        """The result of a key, or None where there is none or it has expired."""
        found = self._results.get(key)
        return found[2] if found is not None and found[0] > self._clock() else None

    def add(self, key: bytes, value: Value, size: int) -> None:
        """Keeps a result; `size` is the memory of its value in bytes."""
        now = self._clock()
        if key in self._results:
            self._bytes -= self._results.pop(key)[1]
        size += ENTRY_BYTES
        self._results[key] = (now + self._seconds, size, value)
        self._bytes += size
        while self._results:
            expires_at, oldest_size, _ = next(iter(self._results.values()))
            if expires_at > now and self._bytes <= self._max_bytes:
                break
            self._results.popitem(last=False)
            self._bytes -= oldest_size
