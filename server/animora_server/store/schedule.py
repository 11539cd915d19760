"""Decides when the next reconcile of the catalog is due."""

import random
from collections.abc import Callable

MAX_RECONCILE_SHARE = 0.1  # of the time spent in reconciles
# The factor by which the cost of a reconcile may exceed the previous one; up to an interval it always may. A
# reconcile that suddenly takes much longer was frozen with the process or the database.
MAX_GROWTH = 3.0


class ReconcileSchedule:
    """Spaces reconciles by an interval and limits them to MAX_RECONCILE_SHARE of the time.

    A reconcile has two parts: counting all interactions, then refreshing the catalog. If reconciles become
    slower by more than MAX_GROWTH, a few of them exceed the share.

    All times are seconds of one clock that never steps back.

    Args:
        interval: Seconds between two reconciles.
        jitter: Draws a factor for each interval, so that workers do not reconcile at the same time.
    """

    def __init__(
        self, interval: float, jitter: Callable[[], float] = lambda: random.uniform(0.9, 1.1)
    ) -> None:
        self._interval = interval
        self._jitter = jitter
        self._due_at = self._earliest = self._missed_at = float("-inf")
        self._cost = 0.0  # credited seconds of the last reconcile

    def seconds_until_due(self, now: float) -> float:
        """Seconds until the next reconcile is due; 0 or negative if it is due."""
        return max(self._due_at, self._earliest) - now

    def events_missed(self, now: float) -> None:
        """Makes the next reconcile due as soon as the share allows, to find missed notifications."""
        self._missed_at = now
        self._due_at = float("-inf")

    def count_succeeded(self, now: float, took: float) -> None:
        """Records that the count of all interactions succeeded after some seconds."""
        self._earliest = now + _pause(self._credited_cost(took))

    def count_failed(self, now: float, took: float) -> None:
        """Records that the count failed after some seconds, in which the database may have been idle."""
        self._earliest = now + min(_pause(took), max(took, self._interval))

    def reconcile_began(self, now: float) -> None:
        """Records the start of the second part. If it fails, the next reconcile is due after an interval."""
        self._due_at = now + self._interval * self._jitter()

    def reconcile_published(self, now: float, began: float, took: float) -> None:
        """Records that a reconcile was published.

        Args:
            now: The time.
            began: The start of the second part, which may lack notifications missed since then.
            took: Seconds of both parts.
        """
        self._cost = self._credited_cost(took)
        self._earliest = now + _pause(self._cost)
        missed = self._missed_at >= began
        self._due_at = float("-inf") if missed else now + self._interval * self._jitter()

    def _credited_cost(self, took: float) -> float:
        """The seconds of a reconcile, limited by MAX_GROWTH."""
        return min(took, max(MAX_GROWTH * self._cost, self._interval))


def _pause(cost: float) -> float:
    return cost * (1 / MAX_RECONCILE_SHARE - 1)
