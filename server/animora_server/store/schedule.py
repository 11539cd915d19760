"""When the catalog is reconciled next."""

import random
from collections.abc import Callable

MAX_RECONCILE_SHARE = 0.1  # of the time, at most, that goes into reconciles
# A reconcile counts as so many times what the one before took, at most, or as an interval where that is more:
# what takes much longer at once was frozen with the process or the database, and cost nothing meanwhile.
MAX_GROWTH = 3.0


class ReconcileSchedule:
    """Spaces reconciles: by an interval from the end of one, and so that they keep to RECONCILE_SHARE.

    Where reconciles become slower by more than MAX_GROWTH, the share is exceeded for a few of them.

    All times are seconds of one clock that never steps back.

    Args:
        interval: Seconds between two reconciles.
        jitter: Draws a factor for each interval, so that workers do not reconcile together.
    """

    def __init__(
        self, interval: float, jitter: Callable[[], float] = lambda: random.uniform(0.9, 1.1)
    ) -> None:
        self._interval = interval
        self._jitter = jitter
        self._due_at = self._earliest = self._missed_at = float("-inf")
        self._cost = 0.0  # seconds that the last reconcile counted as

    def seconds_until_due(self, now: float) -> float:
        """Seconds until the next reconcile is due; not positive when it is."""
        return max(self._due_at, self._earliest) - now

    def events_missed(self, now: float) -> None:
        """Notifications may have been missed, which a reconcile finds: it is due once its share allows."""
        self._missed_at = now
        self._due_at = float("-inf")

    def count_succeeded(self, now: float, took: float) -> None:
        """All interactions were counted, as the first part of a reconcile, which took some seconds."""
        self._earliest = now + _pause(self._credited_cost(took))

    def count_failed(self, now: float, took: float) -> None:
        """The count failed after some seconds, for which the database may have done nothing or been away."""
        self._earliest = now + min(_pause(took), max(took, self._interval))

    def reconcile_began(self, now: float) -> None:
        """The second part begins. Where it fails, the next reconcile is due after an interval."""
        self._due_at = now + self._interval * self._jitter()

    def reconcile_published(self, now: float, began: float, took: float) -> None:
        """A reconcile is published.

        Args:
            now: The time.
            began: When its second part began; it may lack what was missed since.
            took: Seconds that both parts took.
        """
        self._cost = self._credited_cost(took)
        self._earliest = now + _pause(self._cost)
        missed = self._missed_at >= began
        self._due_at = float("-inf") if missed else now + self._interval * self._jitter()

    def _credited_cost(self, took: float) -> float:
        """Seconds that a reconcile counts as, of those that it took."""
        return min(took, max(MAX_GROWTH * self._cost, self._interval))


def _pause(cost: float) -> float:
    return cost * (1 / MAX_RECONCILE_SHARE - 1)
