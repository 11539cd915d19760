"""Notifications in batches, with a clock and a transport of the test's own."""

import asyncio
from itertools import chain

import pytest

from animora_server.store.notifications import (
    BATCH_BYTES,
    BREAK,
    MAX_PENDING_BYTES,
    NotificationBatcher,
)


class Connection:
    """A transport that remembers whether it is read."""

    def __init__(self):
        self.reading = True
        self.closing = False

    def pause_reading(self):
        assert self.reading
        self.reading = False

    def resume_reading(self):
        assert not self.reading
        self.reading = True

    def is_closing(self):
        return self.closing


class World:
    """A batcher in a time of its own, in which applying takes `cost` seconds a batch."""

    def __init__(self):
        self.connection = Connection()
        self.batches = []
        self.overflows = 0
        self.takes_more = True
        self.cost = 0.0
        self.now = 0.0
        self.waits = []
        self.read_meanwhile = []
        self._scheduled = []
        self.batcher = NotificationBatcher(
            self.connection, self._apply, self._overflow, lambda: self.now, self._call_later
        )

    def add(self, *payloads):
        for payload in payloads:
            self.batcher.add(payload)

    def settle(self):
        """Lets all that is scheduled happen at its time."""
        while self._scheduled:
            seconds, action, handle = self._scheduled.pop(0)
            if not handle.cancelled():
                self.now += seconds
                self.waits.append(seconds)
                action()

    def _call_later(self, seconds, action):
        handle = asyncio.Handle(action, (), asyncio.get_running_loop())
        self._scheduled.append((seconds, action, handle))
        return handle

    def _apply(self, payloads):
        self.batches.append(payloads)
        self.read_meanwhile.append(self.connection.reading)
        self.now += self.cost
        return self.takes_more

    def _overflow(self):
        self.overflows += 1


@pytest.fixture
def world():
    return World()


async def test_payloads_that_arrive_together_are_applied_together_in_their_order(world):
    world.add("a", "b", "c")
    assert world.batches == []

    world.settle()

    assert world.batches == [["a", "b", "c"]]
    assert world.connection.reading


async def test_many_are_applied_in_batches_and_nothing_is_read_meanwhile(world):
    payloads = [f"{number:0100}" for number in range(3 * BATCH_BYTES // 100)]
    world.add(*payloads)

    world.settle()

    assert len(world.batches) > 2
    assert list(chain.from_iterable(world.batches)) == payloads
    assert world.read_meanwhile == [True] + [False] * (len(world.batches) - 1)
    assert world.connection.reading


async def test_between_two_batches_the_event_loop_has_a_multiple_of_their_time(world):
    world.cost = 0.01
    world.add(*["x" * BATCH_BYTES] * 3)

    world.settle()

    assert len(world.batches) == 3
    assert world.waits == [0, pytest.approx(0.04), pytest.approx(0.04)]


async def test_more_than_may_wait_are_dropped_and_no_more_are_taken(world):
    size = 1000
    world.add(*["x" * size] * (MAX_PENDING_BYTES // size + 1))
    assert world.overflows == 1
    assert world.batcher.overflowed
    assert not world.connection.reading
    world.add("late")

    world.settle()

    assert world.batches == []
    assert world.batcher.dropped == MAX_PENDING_BYTES // size + 2
    assert world.overflows == 1


async def test_payloads_that_wait_for_too_long_without_a_break_are_dropped(world):
    world.cost = 0.06  # and five times as much with the pause
    for _ in range(4):
        world.add(*["x" * BATCH_BYTES] * 2)
        world.settle()

    assert world.overflows == 1
    assert world.batcher.dropped > 0


async def test_after_a_break_payloads_may_wait_again(world):
    world.cost = 0.06
    for _ in range(20):
        world.add(*["x" * BATCH_BYTES] * 2)
        world.settle()
        world.now += 2 * BREAK

    assert world.overflows == 0


async def test_a_taker_that_is_full_gets_no_more(world):
    world.takes_more = False
    world.add(*["x" * BATCH_BYTES] * 3)

    world.settle()

    assert len(world.batches) == 1
    assert world.batcher.dropped == 2
    assert world.overflows == 1


async def test_a_connection_that_ends_is_neither_paused_nor_resumed(world):
    world.connection.closing = True
    world.add(*["x" * BATCH_BYTES] * 3)

    world.settle()

    assert len(world.batches) == 3
    assert world.connection.reading
