"""Single-flight: one computation a key at a time, shared by all callers with that key."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


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
