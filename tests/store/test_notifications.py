"""Notifications in batches, with a clock and a transport of the test's own."""

import asyncio
from contextlib import suppress
from itertools import chain

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from animora_server.catalog import ChangeEvents
from animora_server.store.notifications import (
    BATCH_BYTES,
    MAX_PENDING_BYTES,
    QUIET_SECONDS,
    NotificationBatcher,
    read_payload,
)

ids = st.integers(-(2**63), 2**63 - 1)


@given(ids, ids)
def test_a_block_says_who_blocks_whom(blocker, blocked):
    assume(blocker != blocked)
    assert read_payload(f"block {blocker} {blocked}") == ChangeEvents(blocks=frozenset({(blocker, blocked)}))


@given(ids, ids)
def test_that_a_block_was_taken_back_is_left_to_a_reading(blocker, blocked):
    assume(blocker != blocked)
    assert read_payload(f"unblock {blocker} {blocked}") == ChangeEvents(unblocked=True)


@given(st.lists(ids, min_size=1))
def test_a_deletion_says_which_posts(deleted):
    payload = "delete " + " ".join(map(str, deleted))

    assert read_payload(payload) == ChangeEvents(deleted=frozenset(deleted))


@given(st.text())
@pytest.mark.parametrize("start", ["", "block ", "delete ", "delete 1 "])
def test_any_text_is_a_fact_or_a_value_error(start, text):
    with suppress(ValueError):
        assert read_payload(start + text)


@pytest.mark.parametrize(
    "payload",
    [
        "", "block", "block 1", "block 1 2 3", "block  1 2", "block 1 2 ", " block 1 2", "block 1 2\n",
        "BLOCK 1 2",
        "delete", "delete ", "delete 1,2", "delete 1.0", "delete 0x1", "delete 1_0", "delete +1",
        "delete \N{ARABIC-INDIC DIGIT ONE}",
        f"delete {2**63}", f"block 1 {-(2**63) - 1}", "delete 99999999999999999999", "restore 1",
        "block 7 7", "unblock 7 7",
    ],
)  # fmt: skip
def test_what_is_no_fact_is_a_value_error(payload):
    with pytest.raises(ValueError, match=r"not a fact|64 bits|nobody blocks themselves"):
        read_payload(payload)


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

    def wait_for_thread(self):
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

    world.wait_for_thread()

    assert world.batches == [["a", "b", "c"]]
    assert world.connection.reading


async def test_many_are_applied_in_batches_and_nothing_is_read_meanwhile(world):
    payloads = [f"{number:0100}" for number in range(3 * BATCH_BYTES // 100)]
    world.add(*payloads)

    world.wait_for_thread()

    assert len(world.batches) > 2
    assert list(chain.from_iterable(world.batches)) == payloads
    assert world.read_meanwhile == [True] + [False] * (len(world.batches) - 1)
    assert world.connection.reading


async def test_between_two_batches_the_event_loop_has_a_multiple_of_their_time(world):
    world.cost = 0.01
    world.add(*["x" * BATCH_BYTES] * 3)

    world.wait_for_thread()

    assert len(world.batches) == 3
    assert world.waits == [0, pytest.approx(0.04), pytest.approx(0.04)]


async def test_more_than_may_wait_are_dropped_and_no_more_are_taken(world):
    size = 1000
    world.add(*["x" * size] * (MAX_PENDING_BYTES // size + 1))
    assert world.overflows == 1
    assert world.batcher.overflowed
    assert not world.connection.reading
    world.add("late")

    world.wait_for_thread()

    assert world.batches == []
    assert world.batcher.dropped == MAX_PENDING_BYTES // size + 2
    assert world.overflows == 1


async def test_payloads_that_wait_for_too_long_without_a_break_are_dropped(world):
    world.cost = 0.06  # and five times as much with the pause
    for _ in range(4):
        world.add(*["x" * BATCH_BYTES] * 2)
        world.wait_for_thread()

    assert world.overflows == 1
    assert world.batcher.dropped > 0


async def test_after_a_break_payloads_may_wait_again(world):
    world.cost = 0.06
    for _ in range(20):
        world.add(*["x" * BATCH_BYTES] * 2)
        world.wait_for_thread()
        world.now += 2 * QUIET_SECONDS

    assert world.overflows == 0


async def test_a_taker_that_is_full_gets_no_more(world):
    world.takes_more = False
    world.add(*["x" * BATCH_BYTES] * 3)

    world.wait_for_thread()

    assert len(world.batches) == 1
    assert world.batcher.dropped == 2
    assert world.overflows == 1


async def test_a_connection_that_ends_is_neither_paused_nor_resumed(world):
    world.connection.closing = True
    world.add(*["x" * BATCH_BYTES] * 3)

    world.wait_for_thread()

    assert len(world.batches) == 3
    assert world.connection.reading
