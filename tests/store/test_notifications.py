"""Payloads are parsed and applied in batches, with a fake clock and a fake transport."""

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
def test_a_block_has_a_blocker_and_a_blocked_user(blocker, blocked):
    assume(blocker != blocked)
    assert read_payload(f"block {blocker} {blocked}") == ChangeEvents(blocks=frozenset({(blocker, blocked)}))


@given(ids, ids)
def test_an_unblock_is_left_to_the_next_reading(blocker, blocked):
    assume(blocker != blocked)
    assert read_payload(f"unblock {blocker} {blocked}") == ChangeEvents(unblocked=True)


@given(st.lists(ids, min_size=1))
def test_a_deletion_has_the_ids_of_the_posts(deleted):
    payload = "delete " + " ".join(map(str, deleted))

    assert read_payload(payload) == ChangeEvents(deleted=frozenset(deleted))


@given(st.text())
@pytest.mark.parametrize("start", ["", "block ", "delete ", "delete 1 "])
def test_any_text_is_an_event_or_a_value_error(start, text):
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
def test_an_invalid_payload_is_a_value_error(payload):
    with pytest.raises(ValueError, match=r"not a change event|64 bits|cannot block themselves"):
        read_payload(payload)


class FakeTransport:
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


class NotificationWorld:
    """A batcher with a fake clock, on which applying a batch takes `cost` seconds."""

    def __init__(self):
        self.connection = FakeTransport()
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

    def run_scheduled(self):
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
    return NotificationWorld()


async def test_payloads_of_one_turn_are_applied_in_order_in_one_batch(world):
    world.add("a", "b", "c")
    assert world.batches == []

    world.run_scheduled()

    assert world.batches == [["a", "b", "c"]]
    assert world.connection.reading


async def test_reading_pauses_while_payloads_are_applied_in_batches(world):
    payloads = [f"{number:0100}" for number in range(3 * BATCH_BYTES // 100)]
    world.add(*payloads)

    world.run_scheduled()

    assert len(world.batches) > 2
    assert list(chain.from_iterable(world.batches)) == payloads
    assert world.read_meanwhile == [True] + [False] * (len(world.batches) - 1)
    assert world.connection.reading


async def test_the_pause_between_batches_is_a_multiple_of_the_time_of_a_batch(world):
    world.cost = 0.01
    world.add(*["x" * BATCH_BYTES] * 3)

    world.run_scheduled()

    assert len(world.batches) == 3
    assert world.waits == [0, pytest.approx(0.04), pytest.approx(0.04)]


async def test_payloads_beyond_the_limit_and_all_later_ones_are_dropped(world):
    size = 1000
    world.add(*["x" * size] * (MAX_PENDING_BYTES // size + 1))
    assert world.overflows == 1
    assert world.batcher.overflowed
    assert not world.connection.reading
    world.add("late")

    world.run_scheduled()

    assert world.batches == []
    assert world.batcher.dropped == MAX_PENDING_BYTES // size + 2
    assert world.overflows == 1


async def test_payloads_are_dropped_after_a_backlog_of_max_lag(world):
    world.cost = 0.06  # and five times as much with the pause
    for _ in range(4):
        world.add(*["x" * BATCH_BYTES] * 2)
        world.run_scheduled()

    assert world.overflows == 1
    assert world.batcher.dropped > 0


async def test_after_a_quiet_time_a_backlog_is_a_new_one(world):
    world.cost = 0.06
    for _ in range(20):
        world.add(*["x" * BATCH_BYTES] * 2)
        world.run_scheduled()
        world.now += 2 * QUIET_SECONDS

    assert world.overflows == 0


async def test_payloads_are_dropped_when_the_receiver_takes_no_more(world):
    world.takes_more = False
    world.add(*["x" * BATCH_BYTES] * 3)

    world.run_scheduled()

    assert len(world.batches) == 1
    assert world.batcher.dropped == 2
    assert world.overflows == 1


async def test_a_closing_connection_is_neither_paused_nor_resumed(world):
    world.connection.closing = True
    world.add(*["x" * BATCH_BYTES] * 3)

    world.run_scheduled()

    assert len(world.batches) == 3
    assert world.connection.reading
