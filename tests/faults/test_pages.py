"""Pages of timelines while blocks are committed, generations are swapped and the parts of the server fail."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import pytest

from animora_client import AsyncRankingClient, ChannelOptions
from animora_server.errors import GenerationGone
from animora_server.precompute.generation_store import RedisGenerations
from animora_server.precompute.job import NullObserver, RunOptions, run
from animora_server.settings import Settings
from animora_server.types import Generation
from tests.integration.serving import settings_for
from tests.support.artifacts import tiny_artifact
from tests.support.feed import AUTHORS, COLD_USER, TRAINED_USERS, Feed
from tests.support.history import EFFECT_TIME, GenerationSeen, History
from tests.support.processes import kill
from tests.support.redis_stores import Stores
from tests.support.scrolls import Scrolls
from tests.support.until import HANG_TIMEOUT, until
from tests.workers.callers import OWN_CONNECTION
from tests.workers.group import Group, group

pytestmark = pytest.mark.failure(25)

USERS = (*TRAINED_USERS, COLD_USER)
CONNECTIONS = 6  # the kernel spreads them over the workers
RELAXED = 30.0  # seconds within which a block takes effect on a machine that is busy with other tests


@asynccontextmanager
async def scrolling(servers: Group, history: History) -> AsyncIterator[Scrolls]:
    """Every user scrolls, a page from one worker and the next from another."""
    port, stop = await servers.grpc_port(), asyncio.Event()
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                AsyncRankingClient(f"127.0.0.1:{port}", channel=ChannelOptions(extra=OWN_CONNECTION))
            )
            for _ in range(CONNECTIONS)
        ]
        scrolls = Scrolls(clients, history, page_size=7)
        users = [asyncio.create_task(scrolls.keep_scrolling(user, stop)) for user in USERS]
        try:
            yield scrolls
        finally:
            stop.set()
            await asyncio.gather(*users)


class Blocks:
    """Commits one block after another."""

    def __init__(self, database: asyncpg.Connection, history: History) -> None:
        self._pairs = iter([(user, author) for author in AUTHORS[:3] for user in USERS])
        self._database = database
        self._history = history

    async def commit(self) -> None:
        """A further user blocks a further author, or is blocked."""
        user, author = next(self._pairs)
        pair = (user, author) if user % 2 else (author, user)
        await self._database.execute(
            "INSERT INTO animora_app.block_relations (blocker_id, blocked_id) VALUES ($1, $2)", *pair
        )
        self._history.blocked[user, author] = time.monotonic()


async def precompute(settings: Settings, **options: Any) -> Generation | None:
    """Ranks all users' timelines into a new generation, and makes it current."""
    async with RedisGenerations(settings.cache, settings.timeline, settings.precompute) as generations:
        assert (await run(settings, RunOptions(**options), generations, NullObserver())).current
        return await generations.current()


async def likes(feed: Feed) -> set[tuple[int, int]]:
    """Pairs of user and post."""
    database = await asyncpg.connect(feed.url)
    rows = await database.fetch("SELECT user_id, post_id FROM animora_app.likes")
    await database.close()
    return {(row["user_id"], row["post_id"]) for row in rows}


@pytest.fixture
async def history(feed) -> History:
    authors = {int(post): AUTHORS[row % len(AUTHORS)] for row, post in enumerate(feed.post_ids)}
    return History(authors, liked=await likes(feed))


async def test_pages_stay_right_while_redis_and_workers_fail_and_models_and_generations_change(
    *, feed, store, history, database, options, embedded_redis, frozen, seen, tmp_path
):
    redis = await embedded_redis()
    settings = settings_for(feed.url, redis.url, tmp_path / "models")
    options |= {"CACHE_URL": redis.url, "TIMELINE_TOKEN_KEY": "k" * 16, "CACHE_TIMEOUT": "0.02"}
    blocks = Blocks(database, history)
    async with group("--workers", "2", **options) as servers, asyncio.timeout(HANG_TIMEOUT):
        pids = await servers.serving(2)
        async with scrolling(servers, history) as scrolls:

            async def go_on() -> None:
                await scrolls.more(30)
                await blocks.commit()
                await scrolls.more(30)

            await precompute(settings)
            await go_on()
            with frozen(redis.pid):
                await go_on()
            await redis.kill()
            await go_on()
            await redis.start()
            await precompute(settings)
            store.publish(tiny_artifact("v2", seed=2)[0])
            store.activate("v2")
            await scrolls.ordered_by("v2")
            await go_on()
            kill(pids[0])
            await go_on()
            await servers.serving(2, without=pids[0])
            await precompute(settings)
            await go_on()
    assert history.violations(EFFECT_TIME if seen.judges_times else RELAXED) == []
    assert {"v1", "v2", ""} <= set(scrolls.shown_by)
    assert all(scrolls.completed[user] for user in USERS)
    seen.note(f"{scrolls.pages} pages in {sum(scrolls.completed.values())} scrolls, {scrolls.lost} restarted")
    seen.number("slowest block", history.slowest_effect(), at_most=EFFECT_TIME, unit="s")


async def watch(number: int, stores: Stores, history: History) -> None:
    """Records which generation a server's watch has, again and again."""
    while True:
        now, current = time.monotonic(), stores.watch.current
        made_at = None if current is None else current.made_at
        history.generations.append(GenerationSeen(number, now, now, made_at))
        await asyncio.sleep(0.002)


@pytest.mark.usefixtures("store")
async def test_no_server_goes_back_to_an_older_generation_whatever_becomes_of_redis_and_the_runs(
    feed, history, embedded_redis, frozen, seen, tmp_path
):
    redis = await embedded_redis()
    settings = settings_for(feed.url, redis.url, tmp_path / "models")
    async with AsyncExitStack() as stack, asyncio.timeout(HANG_TIMEOUT):
        servers = [await stack.enter_async_context(Stores(redis.url, timeout=0.5)) for _ in range(2)]
        watching = [
            asyncio.create_task(watch(number, stores, history)) for number, stores in enumerate(servers)
        ]

        async def until_current(generation: Generation | None) -> None:
            await until(lambda: all(stores.watch.current == generation for stores in servers))

        await until_current(await precompute(settings))
        # A run is overtaken: another abandons its generation, and becomes current first.
        slow = asyncio.create_task(precompute(settings, rate=15.0))
        await until(servers[0].generations.building)
        overtaking = await precompute(settings, restart=True)
        await until_current(overtaking)
        with pytest.raises(GenerationGone):
            await slow
        with frozen(redis.pid):
            await until(lambda: servers[0].is_skipped and servers[1].is_skipped)
        await until_current(overtaking)
        await redis.kill()
        await redis.start()
        await until_current(None)
        await asyncio.gather(precompute(settings), precompute(settings))
        await until_current(await servers[0].generations.current())
        for task in watching:
            task.cancel()
    assert history.violations() == []
    made = {observation.made_at for observation in history.generations} - {None}
    seen.note(f"{len(history.generations)} looks at {len(made)} generations, none back to an older one")
    assert len(made) >= 3
