"""Redis under faults: no call fails, no score is wrong, and hits come back by themselves."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import redis.asyncio
from redis.asyncio import Redis

from tests.integration.serving import serving, settings_for
from tests.support.artifacts import tiny_artifact
from tests.support.fault_proxy import (
    before_redis,
    black_hole,
    delay,
    flip,
    half_close,
    reset,
    truncate,
)
from tests.support.ledger import Ledger
from tests.support.pages import metric
from tests.support.redis_stores import make_full, make_read_only

pytestmark = [pytest.mark.failure(20), pytest.mark.usefixtures("store")]

NETWORKS = {"v1": tiny_artifact("v1", seed=1)[1]}
HITS = 'animora_rank_cache_total{status="hit"}'
Hits = Callable[[], Awaitable[float]]
TIMEOUT = 0.02  # seconds after which a look-up is a miss
CALLS = 200  # as many before as while Redis is away


@asynccontextmanager
async def ranking(feed, redis_url: str, tmp_path, workers: int = 8) -> AsyncIterator[tuple[Ledger, Hits]]:
    """A server under load, and the number of its cache hits."""
    settings = settings_for(feed.url, redis_url, tmp_path / "models", cache={"timeout": TIMEOUT})
    ledger = Ledger(feed, NETWORKS)
    async with serving(settings) as (application, stub):

        async def hits() -> float:
            return await metric(application, HITS)

        async with ledger.load(stub, workers):
            while not await hits():
                await ledger.more(50)
            yield ledger, hits


async def until_hits(ledger: Ledger, hits: Hits) -> None:
    """Waits until more calls are answered from the cache."""
    before = await hits()
    while await hits() <= before:
        await ledger.more(50)


@pytest.mark.parametrize(
    "fault",
    [delay(0.2), black_hole, reset, truncate, flip, half_close],
    ids=["delayed", "a black hole", "reset", "truncated", "flipped", "half-closed"],
)
async def test_no_call_fails_while_the_connections_to_redis_are(fault, feed, redis_url, tmp_path, seen):
    async with (
        before_redis(redis_url) as (proxy, url),
        ranking(feed, url, tmp_path) as (ledger, hits),
    ):
        proxy.fault = fault
        await ledger.more(500)
        proxy.fault = None
        await until_hits(ledger, hits)
    assert ledger.problems() == []
    seen.note(f"{ledger.sent} calls over damaged connections, all OK")


async def flushed(client: Redis) -> None:
    await client.flushall()


async def usual(client: Redis) -> None:
    await client.config_set("maxmemory", 0)
    await client.replicaof("NO", "ONE")


@pytest.mark.parametrize("become", [make_full, make_read_only, flushed], ids=["full", "read-only", "flushed"])
async def test_no_call_fails_while_redis_is(become, feed, embedded_redis, tmp_path, seen):
    server = await embedded_redis()
    async with (
        ranking(feed, server.url, tmp_path) as (ledger, hits),
        redis.asyncio.from_url(server.url) as client,
    ):
        await become(client)
        await ledger.more(500)
        await usual(client)
        await client.flushall()  # hits from here on were written after the fault
        await until_hits(ledger, hits)
    assert ledger.problems() == []
    seen.note(f"{ledger.sent} calls with a full, read-only or flushed Redis, all OK")


@pytest.mark.parametrize("kind", ["killed", "frozen"])
async def test_a_call_misses_in_time_and_hits_come_back_once_redis_was(
    kind, feed, embedded_redis, tmp_path, frozen, seen
):
    server = await embedded_redis()
    async with ranking(feed, server.url, tmp_path, workers=1) as (ledger, hits):
        start = len(ledger.seconds)
        await ledger.more(CALLS)
        before = len(ledger.seconds)
        if kind == "frozen":
            with frozen(server.pid):
                await ledger.more(CALLS)
                until = len(ledger.seconds)
        else:
            await server.kill()
            await ledger.more(CALLS)
            until = len(ledger.seconds)
            await server.start()
        await until_hits(ledger, hits)
    assert ledger.problems() == []
    usual, away = ledger.seconds[start:before], ledger.seconds[before:until]
    # What a call takes anyway comes on top of the look-up.
    limit = 1000 * (TIMEOUT + max(usual)) + 5
    seen.number(f"{kind}: slowest call", 1000 * max(away), at_most=round(limit), unit="ms")
