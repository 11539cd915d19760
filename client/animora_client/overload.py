"""What a client does about an overloaded server: which calls it sends, and which it retries.

A refused call is retried after the delay that the server names, while retries are a small share of all calls
(`RetryBudget`). While the server refuses most calls, the client holds some of them back (`AdaptiveThrottle`).
`LoadControl` applies both to every call of a client.
"""

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

from grpc import StatusCode

from animora_client.connection import PRIORITY, CallArguments, ChannelOptions, Throttling
from animora_client.errors import (
    DeadlineExceeded,
    ErrorDetails,
    RankingError,
    ResourceExhausted,
    Throttled,
    Unavailable,
)
from animora_client.request import Priority

# Calls in the window below which nothing is held back: few refusals say little.
FEW_CALLS = 10
WINDOW_SLOTS = 20  # calls are forgotten in steps of a twentieth of the window
SPARE_RETRIES = 10.0  # that a client may make in a row, before its calls have paid for them
LONGEST_JITTER = 0.5  # of the delay that the server names: refused callers return at different times
THROTTLED = "CLIENT_THROTTLED"  # the reason of the error

Clock = Callable[[], float]  # seconds, monotonic
Draw = Callable[[], float]  # a number drawn uniformly from [0, 1)


class AdaptiveThrottle:
    """Holds calls back while a server refuses most of them.

    A call is held back with probability (calls - ratio * accepted) / (calls + 1), counted over a window;
    `calls` includes those that were held back. So the client sends about `ratio` calls for each that the
    server accepts ("Handling Overload" in Site Reliability Engineering, O'Reilly 2016). Safe to share between
    threads.
    """

    def __init__(self, throttling: Throttling, clock: Clock, draw: Draw) -> None:
        self._ratio = throttling.ratio
        self._slot_seconds = throttling.window / WINDOW_SLOTS
        self._clock = clock
        self._draw = draw
        self._lock = threading.Lock()
        self._slots: deque[list[int]] = deque()  # number of the slot, calls, accepted calls; the latest last
        self._calls = 0  # in all slots
        self._accepted = 0

    def holds_back(self) -> bool:
        """Whether not to send a call; one that is held back counts as not accepted."""
        with self._lock:
            self._forget()
            if self._calls < FEW_CALLS:
                return False
            probability = (self._calls - self._ratio * self._accepted) / (self._calls + 1)
            held_back = self._draw() < probability
            if held_back:
                self._count(0)
            return held_back

    def record(self, accepted: bool) -> None:
        """Counts a call that the server accepted or refused."""
        with self._lock:
            self._forget()
            self._count(int(accepted))

    def _count(self, accepted: int) -> None:
        number = int(self._clock() // self._slot_seconds)
        if not self._slots or self._slots[-1][0] < number:
            self._slots.append([number, 0, 0])
        self._slots[-1][1] += 1
        self._slots[-1][2] += accepted
        self._calls += 1
        self._accepted += accepted

    def _forget(self) -> None:
        oldest = self._clock() // self._slot_seconds - WINDOW_SLOTS
        while self._slots and self._slots[0][0] <= oldest:
            _, calls, accepted = self._slots.popleft()
            self._calls -= calls
            self._accepted -= accepted


class RetryBudget:
    """Allows retries as a share of the calls, and a few more for a client that makes few calls.

    Safe to share between threads.

    Args:
        share: Retries for each call, 0 to 1.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._lock = threading.Lock()
        self._tokens = SPARE_RETRIES

    def add_call(self) -> None:
        """Counts a call, which pays for `share` retries."""
        with self._lock:
            self._tokens = min(self._tokens + self._share, SPARE_RETRIES)

    def take_retry(self) -> bool:
        """Takes one retry out of the budget; False if there is none."""
        with self._lock:
            if self._tokens < 1.0:
                return False
            self._tokens -= 1.0
            return True


@dataclass(frozen=True, slots=True)
class CallCounts:
    """What became of a client's calls since it was made. gRPC's own retries are not counted.

    Attributes:
        sent: Attempts that were sent, retries of refused calls included.
        refused: Attempts that the server refused because of overload.
        retried: Attempts that repeat a refused one.
        throttled: Calls that were not sent, because the server refused most of the latest ones.
    """

    sent: int = 0
    refused: int = 0
    retried: int = 0
    throttled: int = 0


class LoadControl:
    """Decides for each call of a client whether it is sent, and after a refusal whether it is retried.

    Calls of each priority are counted apart, since a server refuses batch calls first. Safe to share between
    threads.
    """

    def __init__(
        self, channel: ChannelOptions, clock: Clock = time.monotonic, draw: Draw = random.random
    ) -> None:
        self._lanes = {priority: _Lane(channel, clock, draw) for priority in Priority}

    def start(self, arguments: CallArguments) -> "Attempts":
        """Begins a call.

        Raises:
            Throttled: The call is held back.
        """
        lane = self._lanes[_priority_of(arguments)]
        lane.start()
        return Attempts(lane, arguments)

    @property
    def counts(self) -> CallCounts:
        """What became of the calls of all priorities."""
        names = [field.name for field in fields(CallCounts)]
        return CallCounts(*(sum(lane.counts[name] for lane in self._lanes.values()) for name in names))


class Attempts:
    """One call, which may be sent several times. Made by LoadControl."""

    def __init__(self, lane: "_Lane", arguments: CallArguments) -> None:
        self._lane = lane
        self._arguments = arguments
        self._deadline = lane.clock() + arguments["timeout"]
        self._sent = 0

    def next(self) -> CallArguments:
        """The arguments of the next attempt, with the time that is left as its timeout."""
        self._lane.count("sent")
        self._sent += 1
        if self._sent == 1:
            return self._arguments
        left = max(self._deadline - self._lane.clock(), 0.001)
        return {"timeout": left, "metadata": self._arguments["metadata"]}

    def answered(self) -> None:
        """Counts a call that succeeded."""
        self._lane.record(accepted=True)

    def retry_delay(self, error: RankingError) -> float | None:
        """Seconds after which to send a failed attempt again; None if the call has failed."""
        delay = _delay_named_by(error)
        if delay is None:
            if error.code is StatusCode.CANCELLED:  # shed by gRPC; gRPC's own retries have failed as well
                self._lane.record(accepted=False)
            elif not isinstance(error, DeadlineExceeded | Unavailable):  # these tell nothing about the load
                self._lane.record(accepted=True)
            return None
        self._lane.record(accepted=False)
        return self._lane.retry_delay(self._sent, delay, self._deadline)


class _Lane:
    """The calls of one priority."""

    def __init__(self, channel: ChannelOptions, clock: Clock, draw: Draw) -> None:
        throttling = channel.throttling
        self.clock = clock
        self.counts: dict[str, int] = {field.name: 0 for field in fields(CallCounts)}
        self._max_attempts = channel.retry.max_attempts
        self._budget = RetryBudget(channel.retry.budget)
        self._throttle = None if throttling is None else AdaptiveThrottle(throttling, clock, draw)
        self._draw = draw
        self._lock = threading.Lock()

    def start(self) -> None:
        """Counts a call. Raises Throttled if it is held back."""
        if self._throttle is not None and self._throttle.holds_back():
            self.count("throttled")
            message = "not sent: the server refused most of this client's latest calls"
            raise Throttled(message, StatusCode.RESOURCE_EXHAUSTED, ErrorDetails(reason=THROTTLED))
        self._budget.add_call()

    def record(self, accepted: bool) -> None:
        """Counts an attempt that the server accepted or refused."""
        if not accepted:
            self.count("refused")
        if self._throttle is not None:
            self._throttle.record(accepted)

    def retry_delay(self, sent: int, named: float, deadline: float) -> float | None:
        """Seconds until the next attempt of a call that was refused `sent` times; None for no further one."""
        delay = named * (1.0 + LONGEST_JITTER * self._draw())
        if sent >= self._max_attempts or self.clock() + delay >= deadline:
            return None
        if not self._budget.take_retry() or (self._throttle is not None and self._throttle.holds_back()):
            return None
        self.count("retried")
        return delay

    def count(self, name: str) -> None:
        """Adds one to a field of CallCounts."""
        with self._lock:
            self.counts[name] += 1


def _delay_named_by(error: RankingError) -> float | None:
    """The delay before a retry where the server refused the call because of overload, else None."""
    return error.retry_after if isinstance(error, ResourceExhausted) else None


def _priority_of(arguments: CallArguments) -> Priority:
    metadata: Mapping[str, str] = dict(arguments["metadata"])
    return Priority.BATCH if metadata.get(PRIORITY) == Priority.BATCH else Priority.INTERACTIVE
