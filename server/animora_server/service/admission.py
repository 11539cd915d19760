"""Admission control: bounds the calls and candidates in flight; above the bounds a call is refused.

Three bounds hold for calls. Up to the concurrency limit, which adapts to the load, calls are taken from gRPC
as they arrive; beyond it gRPC lets a few wait and sheds the others. A small number of calls a second is taken
nevertheless, and refused with the time after which to try again, where the limit and an allowance, or
`max_calls`, are exceeded. Calls of low priority are refused from half of the limit on.
"""

import time
from collections import deque
from collections.abc import Callable
from math import isqrt
from statistics import median
from types import TracebackType

from animora_server.errors import TooManyRequests

RETRY_AFTER = 0.1  # seconds
ALLOWANCE = 32  # calls above the concurrency limit: taken from gRPC before those ahead of them were counted
BATCH_SHARE = 0.5  # of the concurrency limit, for calls of low priority
REFUSALS_PER_SECOND = 500.0  # calls that are taken to be refused: a twentieth of a core
MAX_REFUSALS = 50  # of them at once

# Of the concurrency limit:
MIN_CALLS = 16  # however slow the server is: batches stay efficient
INTERVAL = 0.1  # seconds between two updates, at least
MAX_INTERVAL = 1.0  # seconds; after longer ones the server was idle
MAX_WAITS = 1000  # the latest ones of an interval
MIN_SAMPLES = 10  # latencies of an interval; with fewer it is prolonged
TIMEOUT_SHARE = 0.3  # of the callers' time, which calls may take in the median
MIN_TARGET = 0.02  # seconds; callers with less time do not lower the limit of the others
MAX_DECREASE = 0.25  # of the limit, that an update keeps at least
ARRIVAL_WAITS = 2  # a call waits for gRPC's events twice: for its headers, then for its message


class AdmissionController:
    """Counts the calls and candidates in flight. Health checks are not counted.

    Args:
        max_calls: The most calls in flight.
        max_rows: The most candidates in flight; a single larger request is admitted when nothing is in
            flight.
        clock: Seconds.

    Attributes:
        calls: How many calls are in flight.
        rows: How many candidates are in flight.
        limit: The concurrency limit.
    """

    def __init__(self, max_calls: int, max_rows: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self._max_calls = max_calls
        self._max_rows = max_rows
        self._clock = clock
        self._refusals = float(MAX_REFUSALS)  # left
        self._refilled_at = clock()
        self.ended: Callable[[], object] = lambda: None
        self.limit = ConcurrencyLimit(max_calls, clock)
        self.calls = 0
        self.rows = 0

    def notify(self, ended: Callable[[], object]) -> None:
        """Sets the function that is called whenever a call has ended."""
        self.ended = ended

    def room(self) -> int:
        """How many more calls may be taken from gRPC, those included that will be refused."""
        room = self.limit.calls - self.calls
        return room if room > 0 else self._refusals_left()

    def admit_call(self, *, is_batch: bool = False) -> "AdmissionPermit":
        """Admits a call for the length of a `with` block.

        Args:
            is_batch: Whether the call has low priority.

        Raises:
            TooManyRequests: A bound would be exceeded.
        """
        limit = self.limit.calls
        if self.calls >= (limit * BATCH_SHARE if is_batch else limit + ALLOWANCE) or (
            self.calls >= self._max_calls
        ):
            self._refusals -= 1
            raise TooManyRequests(RETRY_AFTER)
        return AdmissionPermit(self, 1, 0)

    def admit_rows(self, rows: int) -> "AdmissionPermit":
        """Admits candidates for the length of a `with` block.

        Raises:
            TooManyRequests: The bound would be exceeded.
        """
        if self.rows and self.rows + rows > self._max_rows:
            raise TooManyRequests(RETRY_AFTER)
        return AdmissionPermit(self, 0, rows)

    def _refusals_left(self) -> int:
        now = self._clock()
        gained = (now - self._refilled_at) * REFUSALS_PER_SECOND
        self._refusals = min(self._refusals + gained, MAX_REFUSALS)
        self._refilled_at = now
        return max(int(self._refusals), 0)


class AdmissionPermit:
    """Counts work as in flight during its `with` block. A generator would cost three times as much."""

    __slots__ = ("_admission", "_calls", "_rows")

    def __init__(self, admission: AdmissionController, calls: int, rows: int) -> None:
        self._admission = admission
        self._calls = calls
        self._rows = rows

    def __enter__(self) -> None:
        self._admission.calls += self._calls
        self._admission.rows += self._rows

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._admission.rows -= self._rows
        if self._calls:
            self._admission.calls -= self._calls
            self._admission.ended()


class ConcurrencyLimit:
    """How many calls may be in flight, from the latency of the calls that have ended.

    While the latency is below its target, each update adds the square root of the limit, as Gradient2 of
    Netflix's concurrency-limits does. Above the target, the limit is what Little's law gives for it: answers
    a second times target. Gradient2's target is the latency of an idle server. Here it is a share of the
    callers' timeouts, since the latency of a server that batches grows with its load long before its
    throughput falls.

    The latency includes the time before the handler is called, in which the events of a call wait in gRPC for
    the event loop. Under load that is most of it.

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
        self._waits: deque[float] = deque(maxlen=MAX_WAITS)
        self._latencies: list[float] = []
        self._timeouts: list[float] = []
        self._answers = 0
        self._interval_start = clock()

    def record_wait(self, seconds: float) -> None:
        """Records how long a call that has arrived waited for the event that its message has.

        That is time in the queue of the event loop, and of a message that the caller sends late or slowly.
        """
        self._waits.append(seconds)

    def record_call(self, latency: float, timeout: float, *, is_answer: bool, is_batch: bool = False) -> None:
        """Records a call whose handler has ended.

        Args:
            latency: Seconds since the handler was called.
            timeout: Seconds that the caller had left then.
            is_answer: Whether the call was answered; else its caller has stopped waiting.
            is_batch: Whether the call has low priority; its latency does not count.
        """
        now = self._clock()
        if now - self._interval_start > MAX_INTERVAL:  # an idle server: what was recorded says nothing
            self._begin(now)
        self._answers += is_answer
        # A caller that gives up early tells nothing: the answer would have come later.
        if is_batch or not (is_answer or latency >= TIMEOUT_SHARE * timeout):
            return
        self._latencies.append(latency)
        self._timeouts.append(timeout)
        if len(self._latencies) >= MIN_SAMPLES and now - self._interval_start >= INTERVAL:
            self._update(now - self._interval_start)
            self._begin(now)

    def _update(self, seconds: float) -> None:
        wait = ARRIVAL_WAITS * median(self._waits) if self._waits else 0.0
        target = max(TIMEOUT_SHARE * (wait + median(self._timeouts)), MIN_TARGET)
        if wait + median(self._latencies) <= target:
            limit = self.calls + isqrt(self.calls) + 1
        else:
            little = round(self._answers / seconds * target)
            limit = max(min(self.calls, little), round(MAX_DECREASE * self.calls), MIN_CALLS)
        self.calls = min(limit, self._most)

    def _begin(self, now: float) -> None:
        """Begins an interval."""
        self._waits.clear()
        self._latencies.clear()
        self._timeouts.clear()
        self._answers = 0
        self._interval_start = now
