"""Lists that are kept in the process."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from animora_server.timeline.local_store import (
    OVERHEAD_BYTES,
    POST_BYTES,
    LocalTimelineStore,
    TieredTimelineStore,
)
from animora_server.types import RankedTimeline, RankerName
from tests.timeline.fakes import Clock, CountingStore


def a_list(number: int, made_at: float = 1000.0) -> RankedTimeline:
    return RankedTimeline(
        bytes([number]) * 16,
        np.arange(10, dtype=np.int64),
        np.ones(10, np.float32),
        RankerName.NEUCF,
        "v1",
        made_at,
        made_at + 100,
        made_at,
    )


@pytest.fixture
def clock() -> Clock:
    return Clock(1000.0)


@pytest.fixture
def store(clock) -> LocalTimelineStore:
    return LocalTimelineStore(50.0, clock, max_bytes=3 * (OVERHEAD_BYTES + 10 * POST_BYTES))


async def test_the_latest_list_is_the_one_that_was_made_so_last(store):
    await store.put_latest(b"k", a_list(1))
    await store.put_latest(b"k", a_list(2))
    await store.put(b"k", a_list(3))

    assert (await store.latest(b"k")).timeline_id == bytes([2]) * 16
    assert (await store.by_id(b"k", bytes([1]) * 16)).timeline_id == bytes([1]) * 16


async def test_a_list_belongs_to_its_key(store):
    await store.put_latest(b"k", a_list(1))

    assert await store.latest(b"other") is None
    assert await store.by_id(b"other", bytes([1]) * 16) is None


async def test_a_list_goes_when_its_time_is_over(store, clock):
    await store.put_latest(b"k", a_list(1))
    clock.now = 1151.0

    assert await store.latest(b"k") is None
    assert await store.by_id(b"k", bytes([1]) * 16) is None


async def test_what_was_unused_for_longest_makes_room(store):
    for number in (1, 2, 3):
        await store.put_latest(b"k%d" % number, a_list(number))
    await store.latest(b"k1")

    await store.put_latest(b"k4", a_list(4))

    assert await store.latest(b"k2") is None
    assert await store.latest(b"k1") is not None


async def test_a_list_that_is_larger_than_the_store_is_not_kept(store):
    large = replace(a_list(1), post_ids=np.arange(10_000), scores=np.ones(10_000, np.float32))

    assert not await store.put_latest(b"k", large)
    assert await store.latest(b"k") is None


async def test_what_the_store_did_not_take_can_be_paged_through_but_is_not_the_latest(store, clock):
    behind = CountingStore(LocalTimelineStore(50.0, clock), takes=False)
    backed = TieredTimelineStore(behind, store)

    assert await backed.put_latest(b"k", a_list(1))
    assert await backed.put(b"k", a_list(2))

    assert await backed.by_id(b"k", bytes([1]) * 16) is not None
    assert await backed.by_id(b"k", bytes([2]) * 16) is not None
    assert await backed.latest(b"k") is None


async def test_what_the_store_took_is_kept_there_alone(store, clock):
    behind = CountingStore(LocalTimelineStore(50.0, clock))
    backed = TieredTimelineStore(behind, store)

    await backed.put_latest(b"k", a_list(1))

    assert await store.by_id(b"k", bytes([1]) * 16) is None
    latest = await backed.latest(b"k")
    assert latest is not None
    assert latest.timeline_id == bytes([1]) * 16
    assert await backed.by_id(b"k", bytes([1]) * 16) is not None


async def test_a_list_can_be_paged_through_while_the_store_is_taking_it(store, clock):
    admission = asyncio.Event()
    behind = CountingStore(LocalTimelineStore(50.0, clock), admission=admission)
    backed = TieredTimelineStore(behind, store)
    keeping = asyncio.ensure_future(backed.put_latest(b"k", a_list(1)))
    await asyncio.sleep(0)

    assert await backed.by_id(b"k", bytes([1]) * 16) is not None
    admission.set()
    assert await keeping
    assert await store.by_id(b"k", bytes([1]) * 16) is None


async def test_what_the_store_did_not_take_is_offered_again_for_other_processes(store, clock):
    behind = CountingStore(LocalTimelineStore(50.0, clock), takes=False)
    backed = TieredTimelineStore(behind, store)
    await backed.put(b"k", a_list(1))

    await behind.until_kept(2)
    behind.takes = True
    await behind.until_kept(3)

    assert await behind.by_id(b"k", bytes([1]) * 16) is not None
    await backed.aclose()


async def test_at_the_end_nothing_is_offered_any_more(store, clock):
    behind = CountingStore(LocalTimelineStore(50.0, clock), takes=False)
    backed = TieredTimelineStore(behind, store)
    await backed.put(b"k", a_list(1))

    await backed.aclose()

    assert len(behind.kept) == 1
