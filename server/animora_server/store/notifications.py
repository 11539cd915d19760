"""Parses notifications and applies them in batches, with bounded time and memory.

The payloads are written by deploy/sql/025_notify.sql. Any role that may connect can notify, and one INSERT of
an application can notify 100,000 times. asyncpg reads everything that has arrived and calls the listener once
for each notification, so only these bounds limit the load on the event loop.
"""

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from animora_server.catalog import ChangeEvents

CHANNEL = "animora"
PAYLOAD = re.compile(r"(?:(block|unblock) (-?\d{1,19}) (-?\d{1,19})|delete((?: -?\d{1,19})+))", re.ASCII)
MIN_ID, MAX_ID = -(2**63), 2**63 - 1
BATCH_BYTES = 4096  # payloads of one batch: about 300 blocks
MAX_LOOP_SHARE = 0.2  # of the event loop's time spent applying, at most
MAX_PENDING_BYTES = 64 << 10  # pending payloads, about 5,000 blocks; more are dropped
MAX_LAG = 1.0  # seconds of continuous backlog after which payloads are dropped
QUIET_SECONDS = 0.1  # without a backlog, after which the next backlog is a new one
# The kernel's receive buffer: limits what one turn of the event loop reads to some thousand notifications.
RECEIVE_BYTES = 64 << 10


def read_payload(payload: str) -> ChangeEvents:
    """Parses `block 12 34`, `unblock 12 34` or `delete 56 57`.

    Raises:
        ValueError: The payload has another form, an id does not fit 64 bits, or a user blocks themselves.
    """
    found = PAYLOAD.fullmatch(payload)
    if found is None:
        raise ValueError("not a change event")
    word, blocker, blocked, deleted = found.groups()
    if word is None:
        return ChangeEvents(deleted=frozenset(_id(digits) for digits in deleted.split()))
    pair = _id(blocker), _id(blocked)
    if pair[0] == pair[1]:
        raise ValueError("a user cannot block themselves")
    return ChangeEvents(blocks=frozenset((pair,))) if word == "block" else ChangeEvents(unblocked=True)


def _id(digits: str) -> int:
    value = int(digits)
    if not MIN_ID <= value <= MAX_ID:
        raise ValueError("an id must fit 64 bits")
    return value


class Transport(Protocol):
    """The flow control of a connection. See asyncio.ReadTransport."""

    def pause_reading(self) -> None:
        """Stops receiving."""
        ...

    def resume_reading(self) -> None:
        """Continues receiving."""
        ...

    def is_closing(self) -> bool:
        """Whether the connection is closed or closing."""
        ...


CallLater = Callable[[float, Callable[[], None]], asyncio.Handle]


class NotificationBatcher:
    """Applies payloads in batches, in order, with pauses for other work of the event loop.

    While payloads are pending, the connection is not read. Beyond MAX_PENDING_BYTES or MAX_LAG all pending
    and all later payloads are dropped: a connection that is not read for long would fill PostgreSQL's queue
    of notifications, and then commits that notify would fail. The caller reads the database instead.

    Args:
        transport: The connection's transport.
        apply: Takes the payloads of a batch, on the event loop. Returns whether more may follow.
        on_overflow: Called when payloads are dropped for the first time.
        clock: Returns seconds; never steps back.
        call_later: Schedules a call; by default that of the running event loop.

    Attributes:
        dropped: The number of dropped payloads.
        overflowed: Whether payloads were dropped.
    """

    def __init__(
        self,
        transport: Transport,
        apply: Callable[[list[str]], bool],
        on_overflow: Callable[[], None],
        clock: Callable[[], float] = time.perf_counter,
        call_later: CallLater | None = None,
    ) -> None:
        self.overflowed = False
        self.dropped = 0
        self._transport = transport
        self._apply = apply
        self._on_overflow = on_overflow
        self._clock = clock
        self._call_later = call_later or asyncio.get_running_loop().call_later
        self._pending: deque[str] = deque()
        self._pending_bytes = 0
        self._scheduled: asyncio.Handle | None = None
        self._behind = False  # payloads are pending and the connection is not read
        self._behind_since = self._caught_up_at = float("-inf")

    def add(self, payload: str) -> None:
        """Adds a payload, or drops it after an overflow."""
        if self.overflowed:
            self.dropped += 1
            return
        self._pending.append(payload)
        self._pending_bytes += len(payload)
        if self._pending_bytes > MAX_PENDING_BYTES:
            self._overflow()
        elif self._scheduled is None:
            self._scheduled = self._call_later(0, self._apply_batch)

    def close(self) -> None:
        """Drops the pending payloads."""
        self._pending.clear()
        if self._scheduled is not None:
            self._scheduled.cancel()

    def _overflow(self) -> None:
        self.dropped += len(self._pending)
        self.close()
        self._fall_behind()
        self.overflowed = True
        self._on_overflow()

    def _apply_batch(self) -> None:
        self._scheduled = None
        batch, size = [], 0
        while self._pending and size < BATCH_BYTES:
            size += len(self._pending[0])
            batch.append(self._pending.popleft())
        self._pending_bytes -= size
        began = self._clock()
        more = True
        try:
            more = self._apply(batch)
        finally:  # even after a bug, which the event loop logs
            self._schedule_next(more, self._clock() - began)

    def _schedule_next(self, more: bool, spent: float) -> None:
        if not self._pending and more:
            self._catch_up()
            return
        self._fall_behind()
        if more and self._clock() - self._behind_since <= MAX_LAG:
            self._scheduled = self._call_later(spent * (1 / MAX_LOOP_SHARE - 1), self._apply_batch)
        else:
            self._overflow()

    def _fall_behind(self) -> None:
        if self._behind:
            return
        self._behind = True
        now = self._clock()
        if now - self._caught_up_at > QUIET_SECONDS:
            self._behind_since = now
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def _catch_up(self) -> None:
        if not self._behind:
            return
        self._behind = False
        self._caught_up_at = self._clock()
        if not self._transport.is_closing():
            self._transport.resume_reading()
