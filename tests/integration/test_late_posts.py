"""Late posts after a restart: they are on the first pages of timelines that were precomputed before."""

import numpy as np
import pytest

from animora_proto.ranking.v1 import ranking_pb2 as pb
from animora_server.precompute.generation_store import RedisGenerations
from animora_server.precompute.job import NullObserver, RunOptions, run
from animora_server.precompute.shard import Shard
from tests.integration.serving import serving
from tests.support.feed import COLD_USER, TRAINED_USERS

USERS = (*TRAINED_USERS, COLD_USER)


@pytest.fixture
async def late(feed, database):
    """Two posts that moderation hides; when they become visible, neither of their times changes."""
    await database.execute("alter table animora_app.posts add published bool not null default true")
    await database.execute(
        "create or replace view animora.posts as"
        " select id, author_id, created_at, updated_at, deleted_at, image_embedding, caption_embedding"
        " from animora_app.posts where published"
    )
    posts = [int(feed.post_ids[2]), int(feed.post_ids[50])]
    await database.execute("delete from animora_app.likes where post_id = any($1)", posts)
    await database.execute("update animora_app.posts set published = false where id = any($1)", posts)
    return posts


async def publish(database, *posts):
    updated = await database.fetch(
        "update animora_app.posts set published = true where id = any($1) returning updated_at", posts
    )
    assert [row["updated_at"] for row in updated] == [None] * len(posts)


async def precompute(settings, shard=Shard()):  # noqa: B008  # frozen
    async with RedisGenerations(settings.cache, settings.timeline, settings.precompute) as generations:
        return await run(settings, RunOptions(shard), generations, NullObserver())


async def first_pages(stub, **fields):
    """The whole feed of each user, from the generation: no earlier call has built one."""
    pages = {
        user: await stub.GetTimeline(pb.GetTimelineRequest(user_id=user, page_size=100, **fields))
        for user in USERS
    }
    assert {page.cache for page in pages.values()} == {pb.CACHE_STATUS_HIT}
    return pages


async def test_a_restarted_server_shows_late_posts(settings, database, late):
    assert (await precompute(settings)).current
    async with serving(settings) as (_, stub):
        before = await first_pages(stub)
    await publish(database, *late)

    async with serving(settings) as (_, stub):
        after = await first_pages(stub, explain_post_ids=late)
    again = await precompute(settings)
    async with serving(settings) as (_, stub):
        ranked = await first_pages(stub)

    assert again.current
    for user in USERS:
        assert not set(late) & set(before[user].post_ids)
        assert set(after[user].post_ids) == {*before[user].post_ids, *late}
        assert not after[user].dropped_posts
        assert list(after[user].post_ids) == list(ranked[user].post_ids)


async def test_posts_that_any_shard_did_not_rank_are_late_posts(settings, database, late):
    first, second = late
    shards = [Shard(index, 2) for index in range(2)]
    assert len({bool(shards[0].holds(np.array([user]))[0]) for user in USERS}) == 2
    await precompute(settings, shards[0])
    await publish(database, first)
    assert (await precompute(settings, shards[1])).current
    async with serving(settings) as (_, stub):
        between = await first_pages(stub)
    await publish(database, second)
    async with serving(settings) as (_, stub):
        after = await first_pages(stub)

    for user in USERS:
        assert set(late) & set(between[user].post_ids) == {first}
        assert set(late) <= set(after[user].post_ids)
        assert len(set(after[user].post_ids)) == len(after[user].post_ids)
