"""One timer for many deadlines: a timer for each would take 5 us, most of the cost of queueing."""

import asyncio
import math
from collections.abc import Callable, Iterable
from typing import Protocol

MIN_INTERVAL = 0.001  # seconds between two checks of all entries


class Expirable(Protocol):
    """An entry that waits until a deadline."""

    @property
    def deadline(self) -> float:
        """When the entry expires, on the event loop's clock."""
        ...

    def expire(self) -> None:
        """Called once the deadline has passed."""
        ...


class DeadlineTimer:
    """Expires entries when their deadline passes, at most MIN_INTERVAL late.

    Args:
        entries: Returns the entries that wait; called at each check.
    """

    def __init__(self, entries: Callable[[], Iterable[Expirable]]) -> None:
        self._entries = entries
        self._next_check = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, deadline: float) -> None:
        """Makes sure that the entries are checked at a deadline."""
        if deadline < self._next_check:
            if self._timer is not None:
                self._timer.cancel()
            self._next_check = deadline
            self._timer = asyncio.get_running_loop().call_at(deadline, self._check)

    def _check(self) -> None:
        now, next_deadline = asyncio.get_running_loop().time(), math.inf
        self._next_check, self._timer = math.inf, None
        for entry in self._entries():
            if entry.deadline <= now:
                entry.expire()
            else:
                next_deadline = min(next_deadline, entry.deadline)
        self.watch(max(next_deadline, now + MIN_INTERVAL))
