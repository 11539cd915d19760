"""The store of ranked timelines in the process, alone and behind a shared store."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from animora_server.timeline.store import (
    OVERHEAD_BYTES,
    POST_BYTES,
    LocalTimelineStore,
    TieredTimelineStore,
)
from animora_server.types import RankedTimeline, RankerName
from tests.support.clocks import ManualClock
from tests.timeline.fakes import CountingStore


def timeline(number: int, made_at: float = 1000.0) -> RankedTimeline:
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
def clock() -> ManualClock:
    return ManualClock(1000.0)


@pytest.fixture
def store(clock) -> LocalTimelineStore:
    return LocalTimelineStore(50.0, clock, max_bytes=3 * (OVERHEAD_BYTES + 10 * POST_BYTES))


async def test_the_latest_timeline_is_the_last_one_put_as_latest(store):
    await store.put_latest(b"k", timeline(1))
    await store.put_latest(b"k", timeline(2))
    await store.put(b"k", timeline(3))

    assert (await store.latest(b"k")).timeline_id == bytes([2]) * 16
    assert (await store.by_id(b"k", bytes([1]) * 16)).timeline_id == bytes([1]) * 16


async def test_a_timeline_belongs_to_its_key(store):
    await store.put_latest(b"k", timeline(1))

    assert await store.latest(b"other") is None
    assert await store.by_id(b"other", bytes([1]) * 16) is None


async def test_a_timeline_expires(store, clock):
    await store.put_latest(b"k", timeline(1))
    clock.now = 1151.0

    assert await store.latest(b"k") is None
    assert await store.by_id(b"k", bytes([1]) * 16) is None


async def test_the_least_recently_used_timeline_is_evicted(store):
    for number in (1, 2, 3):
        await store.put_latest(b"k%d" % number, timeline(number))
    await store.latest(b"k1")

    await store.put_latest(b"k4", timeline(4))

    assert await store.latest(b"k2") is None
    assert await store.latest(b"k1") is not None


async def test_a_timeline_larger_than_the_store_is_not_stored(store):
    large = replace(timeline(1), post_ids=np.arange(10_000), scores=np.ones(10_000, np.float32))

    assert not await store.put_latest(b"k", large)
    assert await store.latest(b"k") is None


async def test_a_timeline_that_the_store_did_not_take_serves_pages_but_is_not_the_latest(store, clock):
    behind = CountingStore(LocalTimelineStore(50.0, clock), takes=False)
    backed = TieredTimelineStore(behind, store)

    assert await backed.put_latest(b"k", timeline(1))
    assert await backed.put(b"k", timeline(2))

    assert await backed.by_id(b"k", bytes([1]) * 16) is not None
    assert await backed.by_id(b"k", bytes([2]) * 16) is not None
    assert await backed.latest(b"k") is None


async def test_a_timeline_that_the_store_took_is_not_kept_locally(store, clock):
    behind = CountingStore(LocalTimelineStore(50.0, clock))
    backed = TieredTimelineStore(behind, store)

    await backed.put_latest(b"k", timeline(1))

    assert await store.by_id(b"k", bytes([1]) * 16) is None
    latest = await backed.latest(b"k")
    assert latest is not None
    assert latest.timeline_id == bytes([1]) * 16
    assert await backed.by_id(b"k", bytes([1]) * 16) is not None


async def test_a_timeline_serves_pages_while_it_is_being_stored(store, clock):
    admission = asyncio.Event()
    behind = CountingStore(LocalTimelineStore(50.0, clock), admission=admission)
    backed = TieredTimelineStore(behind, store)
    keeping = asyncio.ensure_future(backed.put_latest(b"k", timeline(1)))
    await asyncio.sleep(0)

    assert await backed.by_id(b"k", bytes([1]) * 16) is not None
    admission.set()
    assert await keeping
    assert await store.by_id(b"k", bytes([1]) * 16) is None


async def test_a_failed_write_is_retried(store, clock):
    behind = CountingStore(LocalTimelineStore(50.0, clock), takes=False)
    backed = TieredTimelineStore(behind, store)
    await backed.put(b"k", timeline(1))

    await behind.until_put(2)
    behind.takes = True
    await behind.until_put(3)

    assert await behind.by_id(b"k", bytes([1]) * 16) is not None
    await backed.aclose()


async def test_closing_cancels_retries(store, clock):
    behind = CountingStore(LocalTimelineStore(50.0, clock), takes=False)
    backed = TieredTimelineStore(behind, store)
    await backed.put(b"k", timeline(1))

    await backed.aclose()

    assert len(behind.kept) == 1
