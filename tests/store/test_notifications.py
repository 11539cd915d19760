"""Notifications in batches, with a clock and a transport of the test's own."""

import asyncio
from itertools import chain

import pytest

from animora_server.store.notifications import BATCH_BYTES, MAX_PENDING_BYTES, NotificationBatcher


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
    """A batcher, and what it does. Applying takes no time, unless `cost` says otherwise."""

    def __init__(self):
        self.connection = Connection()
        self.batches = []
        self.overflows = 0
        self.takes_more = True
        self.cost = 0.0
        self.read_meanwhile = []
        self._now = 0.0
        self.batcher = NotificationBatcher(
            self.connection, self._apply, self._overflow, clock=lambda: self._now
        )

    def add(self, *payloads):
        for payload in payloads:
            self.batcher.add(payload)

    async def settle(self):
        """Returns once all is applied."""
        before = -1
        while before != len(self.batches):
            before = len(self.batches)
            for _ in range(10):
                await asyncio.sleep(0)

    def _apply(self, payloads):
        self.batches.append(payloads)
        self.read_meanwhile.append(self.connection.reading)
        self._now += self.cost
        return self.takes_more

    def _overflow(self):
        self.overflows += 1


@pytest.fixture
def world():
    return World()


async def test_payloads_that_arrive_together_are_applied_together_in_their_order(world):
    world.add("a", "b", "c")
    assert world.batches == []

    await world.settle()

    assert world.batches == [["a", "b", "c"]]
    assert world.connection.reading


async def test_many_are_applied_in_batches_and_nothing_is_read_meanwhile(world):
    payloads = [f"{number:0100}" for number in range(3 * BATCH_BYTES // 100)]
    world.add(*payloads)

    await world.settle()

    assert len(world.batches) > 2
    assert list(chain.from_iterable(world.batches)) == payloads
    assert world.read_meanwhile == [True] + [False] * (len(world.batches) - 1)
    assert world.connection.reading


async def test_the_event_loop_has_its_time_between_two_batches(world):
    world.cost = 1.0  # of which the next batch has to wait a multiple
    world.add(*["x" * BATCH_BYTES] * 3)
    await world.settle()

    assert len(world.batches) == 1
    assert not world.connection.reading
    world.batcher.close()


async def test_more_than_may_wait_are_dropped_and_no_more_are_taken(world):
    size = 1000
    world.add(*["x" * size] * (MAX_PENDING_BYTES // size + 1))
    assert world.overflows == 1
    assert world.batcher.overflowed
    assert not world.connection.reading
    world.add("late")

    await world.settle()

    assert world.batches == []
    assert world.batcher.dropped == MAX_PENDING_BYTES // size + 2
    assert world.overflows == 1


async def test_a_taker_that_is_full_gets_no_more(world):
    world.takes_more = False
    world.add(*["x" * BATCH_BYTES] * 3)

    await world.settle()

    assert len(world.batches) == 1
    assert world.batcher.dropped == 2
    assert world.overflows == 1


async def test_a_connection_that_ends_is_neither_paused_nor_resumed(world):
    world.connection.closing = True
    world.add(*["x" * BATCH_BYTES] * 3)

    await world.settle()

    assert len(world.batches) == 3
    assert world.connection.reading
