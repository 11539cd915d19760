"""One computation a key at a time, however many callers want its result."""

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
    """Shares a running computation among the callers that ask for the same key meanwhile.

    A caller that is cancelled leaves the computation to the others; with the last of them it is
    cancelled too.
    """

    def __init__(self) -> None:
        self._flights: dict[bytes, _Flight[Value]] = {}

    def __contains__(self, key: bytes) -> bool:
        """Whether a computation of this key runs now."""
        return key in self._flights

    async def run(self, key: bytes, compute: Callable[[], Coroutine[Any, Any, Value]]) -> Value:
        """The result, or the error, of the computation that runs for this key, started if need be."""
        if key not in self._flights:
            self._flights[key] = _Flight(asyncio.create_task(compute()))
        flight = self._flights[key]
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting:
                flight.task.cancel()  # does nothing to one that is done
            if flight.task.done() or not flight.waiting:
                self._land(key, flight)

    def _land(self, key: bytes, flight: _Flight[Value]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
