"""The adaptive limit of calls in flight: as many as are answered well within their deadlines."""

import time
from collections.abc import Callable
from math import isqrt
from statistics import median

MIN_CALLS = 16  # however slow the server is: batches stay efficient
INTERVAL = 0.1  # seconds between two updates
MIN_SAMPLES = 10  # answers of an interval; with fewer it is prolonged
TIMEOUT_SHARE = 0.5  # of the callers' time, which calls may take in the median
MAX_DECREASE = 0.5  # of the limit, that an update keeps at least


class ConcurrencyLimit:
    """How many calls may be in flight, from the latency of the calls that were answered.

    The limit is a gradient limit, after Gradient2 of Netflix' concurrency-limits: an update multiplies what
    was in flight by target over latency, and adds the square root of the limit while the latency is below
    the target. Gradient2's target is the latency of an idle server. Here it is a share of the callers'
    timeouts, since the latency of a server that batches grows with its load long before its throughput
    falls. By Little's law the limit settles at throughput times target.

    Args:
        most: The limit at the start, and the highest one.
        clock: Seconds.

    Attributes:
        calls: The limit.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self._most = most
        self._clock = clock
        self.calls = most
        self._latencies: list[float] = []
        self._timeouts: list[float] = []
        self._peak = 0
        self._update_at = clock() + INTERVAL

    def answered(self, latency: float, timeout: float, in_flight: int) -> None:
        """Records a call that was answered.

        Args:
            latency: Seconds that it took.
            timeout: Seconds that its caller had given it.
            in_flight: Number of calls in flight, this one included.
        """
        self._latencies.append(latency)
        self._timeouts.append(timeout)
        self._peak = max(self._peak, in_flight)
        if len(self._latencies) >= MIN_SAMPLES and self._clock() >= self._update_at:
            self._update()

    def _update(self) -> None:
        target = TIMEOUT_SHARE * median(self._timeouts)
        latency = median(self._latencies)
        if latency <= target:
            self.calls = min(self.calls + isqrt(self.calls) + 1, self._most)
        else:
            kept = max(target / latency, MAX_DECREASE)
            self.calls = min(max(round(min(self.calls, self._peak) * kept), MIN_CALLS), self._most)
        self._latencies.clear()
        self._timeouts.clear()
        self._peak = 0
        self._update_at = self._clock() + INTERVAL
