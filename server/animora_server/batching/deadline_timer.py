"""One timer for the deadlines of many who wait: a timer for each takes 5 us, most of a queue's cost."""

import asyncio
import math
from collections.abc import Callable, Iterable
from typing import Protocol

MIN_INTERVAL = 0.001  # seconds from one look at all who wait to the next


class Expirable(Protocol):
    """Waits until a deadline, on the event loop's clock."""

    @property
    def deadline(self) -> float:
        """When it has waited for too long."""
        ...

    def expire(self) -> None:
        """It has."""
        ...


class DeadlineTimer:
    """Expires those whose deadline has come, SOONEST late at most.

    Args:
        waiting: Gives those who wait.
    """

    def __init__(self, waiting: Callable[[], Iterable[Expirable]]) -> None:
        self._waiting = waiting
        self._next = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, deadline: float) -> None:
        """Someone waits until a deadline."""
        if deadline < self._next:
            if self._timer is not None:
                self._timer.cancel()
            self._next = deadline
            self._timer = asyncio.get_running_loop().call_at(deadline, self._expire)

    def _expire(self) -> None:
        now, soonest = asyncio.get_running_loop().time(), math.inf
        self._next, self._timer = math.inf, None
        for each in self._waiting():
            if each.deadline <= now:
                each.expire()
            else:
                soonest = min(soonest, each.deadline)
        self.watch(max(soonest, now + MIN_INTERVAL))
