"""Users scroll on two servers during posts, likes, deletions, blocks, a new model and a loss of Redis."""

import asyncio
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from redis.asyncio import Redis

from animora_artifact import FolderStore
from animora_client import AsyncRankingClient, CachePolicy
from animora_server.app import running
from tests.integration.serving import with_options
from tests.support.artifacts import tiny_artifact
from tests.support.history import EFFECT_TIME, History
from tests.support.scrolls import Scrolls
from tests.support.until import HANG_TIMEOUT

TRAINED = range(2000, 2025)
COLD = range(2025, 2050)
AUTHORS = range(3000, 3020)
POSTS = range(10_000, 10_380)
PAGES = 20


@pytest.fixture
async def authors(database) -> dict[int, int]:
    """Posts of twenty authors, and users who scroll through all of them."""
    random = np.random.default_rng(3)
    authors = {post: AUTHORS[post % len(AUTHORS)] for post in POSTS}
    await database.execute("DELETE FROM animora_app.posts")
    await database.executemany(
        "INSERT INTO animora_app.users (id) VALUES ($1)", [(user,) for user in (*TRAINED, *COLD, *AUTHORS)]
    )
    now = datetime.now(UTC)
    await database.executemany(
        "INSERT INTO animora_app.posts (id, author_id, created_at, image_embedding, caption_embedding)"
        " VALUES ($1, $2, $3, $4, $5)",
        [
            (
                post,
                author,
                now - timedelta(minutes=float(random.uniform(5, 3000))),
                random.normal(size=3).tolist(),
                random.normal(size=2).tolist(),
            )
            for post, author in authors.items()
        ],
    )
    return authors


@pytest.fixture
async def clients(settings, models, authors):
    """Clients of two servers, which are SERVING."""
    shared = with_options(settings, timeline={"token_key": "k" * 16})
    async with AsyncExitStack() as stack:
        clients = []
        for _ in range(2):
            server = await stack.enter_async_context(running(shared))
            async with asyncio.timeout(HANG_TIMEOUT):
                await server.listen()
            target = f"127.0.0.1:{server.grpc.port}"
            clients.append(await stack.enter_async_context(AsyncRankingClient(target)))
        yield clients


@pytest.fixture
def models(store: FolderStore) -> FolderStore:
    """Two versions whose vocabulary has half of the users."""
    for version, seed in (("w1", 1), ("w2", 2)):
        store.publish(tiny_artifact(version, seed=seed, users=np.array(TRAINED))[0])
    store.activate("w1")
    return store


class Writer:
    """Random writes to the database, one at a time, each recorded with the time of its commit."""

    def __init__(self, database, history: History) -> None:
        self.database = database
        self.history = history
        self.random = np.random.default_rng(4)
        self.new_posts = iter(range(20_000, 30_000))

    def any_user(self) -> int:
        return int(self.random.choice([*TRAINED, *COLD]))

    def any_post(self) -> int:
        posts = [*POSTS, *self.history.new_authors]
        return int(self.random.choice([post for post in posts if post not in self.history.deleted]))

    async def post(self) -> None:
        new, author = next(self.new_posts), int(self.random.choice(AUTHORS))
        self.history.new_authors[new] = author
        await self.database.execute(
            "INSERT INTO animora_app.posts (id, author_id) VALUES ($1, $2)", new, author
        )

    async def like(self) -> None:
        user, post = self.any_user(), self.any_post()
        self.history.liked.add((user, post))
        await self.database.execute(
            "INSERT INTO animora_app.likes (user_id, post_id) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            user,
            post,
        )

    async def delete(self) -> None:
        post = self.any_post()
        if self.random.random() < 0.5:
            await self.database.execute("DELETE FROM animora_app.posts WHERE id = $1", post)
        else:
            await self.database.execute("UPDATE animora_app.posts SET deleted_at = now() WHERE id = $1", post)
        self.history.deleted[post] = time.monotonic()

    async def block(self) -> None:
        user, author = self.any_user(), int(self.random.choice(AUTHORS))
        pair = (user, author) if self.random.random() < 0.5 else (author, user)
        await self.database.execute(
            "INSERT INTO animora_app.block_relations (blocker_id, blocked_id) VALUES ($1, $2)"
            " ON CONFLICT DO NOTHING",
            *pair,
        )
        self.history.blocked.setdefault((user, author), time.monotonic())


@pytest.mark.failure(25)
async def test_no_scroll_repeats_or_misses_a_post_or_shows_a_hidden_one(
    clients, authors, models, database, redis_url
):
    stop = asyncio.Event()
    history = History(authors)
    scrolls = Scrolls(clients, history, page_size=len(POSTS) // PAGES)
    writer = Writer(database, history)
    async with asyncio.timeout(HANG_TIMEOUT):
        users = [asyncio.create_task(scrolls.keep_scrolling(user, stop)) for user in (*TRAINED, *COLD)]
        for number in range(60):
            await scrolls.more(25)
            await (writer.post, writer.like, writer.delete, writer.block)[number % 4]()
            if number == 20:
                models.activate("w2")
            if number == 40:
                async with Redis.from_url(redis_url) as redis:
                    await redis.flushall()
        await scrolls.ordered_by("w2")
        # Every page from here on must reflect all writes.
        last = time.monotonic()
        while time.monotonic() < last + EFFECT_TIME:
            await scrolls.more(1)
        await scrolls.more(2 * len(users))
        stop.set()
        await asyncio.gather(*users)

    assert history.violations() == []
    assert not scrolls.failed
    assert not scrolls.degraded
    assert scrolls.lost
    assert history.new_authors.keys() & {post for page in history.pages for post in page.post_ids}
    assert all(scrolls.completed[user] > 1 for user in (*TRAINED, *COLD))
    assert {"w1", "w2", ""} <= set(scrolls.shown_by)
    assert scrolls.pages > 50 * PAGES


async def test_a_scroll_continues_on_another_server(clients, authors):
    pages = 0

    async def scroll(user: int) -> None:
        nonlocal pages
        while pages < 2000:
            token, policy = "", CachePolicy.REFRESH  # a new timeline each time, built by one server
            for number in range(4):
                page = await clients[(user + number) % 2].timeline_page(
                    user, page_size=10, page_token=token, cache_policy=policy, timeout=10
                )
                token, pages = page.next_page_token, pages + 1

    async with asyncio.timeout(HANG_TIMEOUT):
        await asyncio.gather(*(scroll(user) for user in (*TRAINED, *COLD)))
