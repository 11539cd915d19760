"""GetTimeline through the whole server: database, model, Redis, wire."""

import asyncio
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from redis.asyncio import Redis

from animora_proto.ranking.v1 import ranking_pb2 as pb
from tests.integration.serving import serving, with_options
from tests.support.artifacts import tiny_artifact
from tests.support.feed import AUTHORS, COLD_USER
from tests.support.until import HANG_TIMEOUT

NETWORK = tiny_artifact("v1", seed=1)[1]


def request(user: int = 7, **fields) -> pb.GetTimelineRequest:
    return pb.GetTimelineRequest(user_id=user, **fields)


async def all_pages(stub, user: int = 7, **fields) -> list[pb.GetTimelineResponse]:
    pages = [await stub.GetTimeline(request(user, **fields))]
    while pages[-1].next_page_token:
        pages.append(await stub.GetTimeline(request(user, page_token=pages[-1].next_page_token, **fields)))
    return pages


def posts(pages) -> list[int]:
    return [post for page in pages for post in page.post_ids]


def reason(error: grpc.aio.AioRpcError) -> str:
    info = error_details_pb2.ErrorInfo()
    for detail in rpc_status.from_call(error).details:
        if detail.Unpack(info):
            return str(info.reason)
    return ""


async def test_pages_hold_the_feed_in_the_eager_networks_order(stub, feed, database):
    seen = {row[0] for row in await database.fetch("SELECT post_id FROM animora_app.likes WHERE user_id = 7")}
    pages = await all_pages(stub, page_size=9)
    expected = feed.probabilities(NETWORK, 7)

    assert set(posts(pages)) == set(feed.post_ids.tolist()) - seen
    assert len(posts(pages)) == len(set(posts(pages)))
    scores = [score for page in pages for score in page.scores]
    assert scores == pytest.approx([expected[post] for post in posts(pages)], abs=1e-5)
    assert scores == sorted(scores, reverse=True)
    assert {page.model_version for page in pages} == {"v1"}
    assert pages[0].cache == pb.CACHE_STATUS_MISS
    assert {page.cache for page in pages[1:]} == {pb.CACHE_STATUS_HIT}


async def test_seen_posts_are_included_on_request(stub, feed):
    pages = await all_pages(stub, include_seen=True, page_size=100)
    assert set(posts(pages)) == set(feed.post_ids.tolist())


async def test_a_second_server_serves_the_timelines_and_page_tokens_of_the_first(settings, feed):
    shared = with_options(settings, timeline={"token_key": "k" * 16})
    async with serving(shared) as (_, here), serving(shared) as (_, there):
        first = await here.GetTimeline(request())
        again = await there.GetTimeline(request())
        rest = await there.GetTimeline(request(page_token=first.next_page_token))

    assert again.cache == pb.CACHE_STATUS_HIT
    assert list(again.post_ids) == list(first.post_ids)
    assert not set(rest.post_ids) & set(first.post_ids)


async def test_after_a_redis_flush_a_page_token_is_snapshot_gone_and_a_first_page_is_rebuilt(stub, redis_url):
    first = await stub.GetTimeline(request(page_size=5))
    async with Redis.from_url(redis_url) as redis:
        await redis.flushall()

    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await stub.GetTimeline(request(page_token=first.next_page_token))
    assert failed.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert reason(failed.value) == "SNAPSHOT_GONE"
    rest = await all_pages(stub, exclude_post_ids=first.post_ids)
    assert not set(posts(rest)) & set(first.post_ids)
    assert rest[0].cache == pb.CACHE_STATUS_MISS


@pytest.mark.failure(23)
async def test_500_concurrent_misses_build_one_timeline(settings, redis_url):
    # The long timeout keeps a slow look-up from being a miss.
    async with serving(with_options(settings, cache={"timeout": 30.0})) as (_, stub):
        pages = await asyncio.gather(*(stub.GetTimeline(request(), timeout=HANG_TIMEOUT) for _ in range(500)))
        async with Redis.from_url(redis_url) as redis:
            lists = [key async for key in redis.scan_iter(match="animora:list:*")]

    assert len({tuple(page.post_ids) for page in pages}) == 1
    assert {page.degraded_reason for page in pages} == {pb.DEGRADED_REASON_UNSPECIFIED}
    assert len(lists) == 1


async def test_paging_works_without_redis(settings, feed):
    async with serving(with_options(settings, cache={"url": ""})) as (_, stub):
        pages = await all_pages(stub, include_seen=True, page_size=10)
    assert sorted(posts(pages)) == sorted(feed.post_ids.tolist())


async def test_a_cold_user_gets_the_heuristic_explained(stub):
    page = await stub.GetTimeline(request(COLD_USER, explain=True))
    assert (page.ranker, page.degraded_reason) == (pb.RANKER_HEURISTIC, pb.DEGRADED_REASON_UNSPECIFIED)
    for explanation, score in zip(page.explanations, page.scores, strict=True):
        assert {term.name for term in explanation.terms} == {"popularity", "recency"}
        assert sum(term.value for term in explanation.terms) == pytest.approx(score, abs=1e-4)


async def test_get_timeline_explains_why_posts_are_missing(stub, feed, database):
    mine = await database.fetchval(
        "INSERT INTO animora_app.posts (author_id, created_at) VALUES (7, now()) RETURNING id"
    )
    old = await database.fetchval(
        "INSERT INTO animora_app.posts (author_id, created_at, updated_at)"
        " VALUES ($1, $2, now()) RETURNING id",
        AUTHORS[0],
        datetime.now(UTC) - timedelta(days=400),
    )
    liked = await database.fetchval("SELECT min(post_id) FROM animora_app.likes WHERE user_id = 7")
    expected = {
        mine: pb.DROP_REASON_OWN,
        old: pb.DROP_REASON_TOO_OLD,
        liked: pb.DROP_REASON_SEEN,
        99: pb.DROP_REASON_UNKNOWN,
    }
    async with asyncio.timeout(HANG_TIMEOUT):
        while True:  # until the next poll has the new posts
            page = await stub.GetTimeline(request(explain_post_ids=list(expected)))
            reasons = {post.post_id: post.reason for post in page.dropped_posts}
            if reasons == expected:
                break


async def test_a_new_post_is_on_the_next_first_page_of_an_older_timeline(stub, database):
    first = await stub.GetTimeline(request(COLD_USER, page_size=100))
    new = await database.fetchval(
        "INSERT INTO animora_app.posts (author_id) VALUES ($1) RETURNING id", AUTHORS[0]
    )
    async with asyncio.timeout(HANG_TIMEOUT):
        while new not in (page := await stub.GetTimeline(request(COLD_USER, page_size=100))).post_ids:
            pass
    assert page.cache == pb.CACHE_STATUS_HIT
    assert set(first.post_ids) < set(page.post_ids)


async def test_a_forged_token_and_a_negative_page_size_are_invalid_arguments(stub):
    for wrong, field in (
        (request(page_token="x" * 56), "page_token"),
        (request(page_token="\N{SNOWMAN}"), "page_token"),
        (request(page_size=-1), "page_size"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.GetTimeline(wrong)
        assert failed.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert (failed.value.details() or "").startswith(field)


@pytest.mark.failure(25)
async def test_a_block_and_a_deletion_take_effect_on_every_page(stub, database, feed):
    pages = [await stub.GetTimeline(request(include_seen=True, page_size=5))]
    await database.execute(
        "INSERT INTO animora_app.block_relations (blocker_id, blocked_id) VALUES ($1, 7)", AUTHORS[1]
    )
    gone = next(post for post in feed.post_ids.tolist() if post not in pages[0].post_ids)
    await database.execute("DELETE FROM animora_app.posts WHERE id = $1", gone)
    blocked = {post for row, post in enumerate(feed.post_ids.tolist()) if row % len(AUTHORS) == 1}
    hidden = blocked | {gone}
    async with asyncio.timeout(HANG_TIMEOUT):
        while hidden & set(posts(await all_pages(stub, include_seen=True, page_size=100))):
            pass
    while pages[-1].next_page_token:
        token = pages[-1].next_page_token
        pages.append(await stub.GetTimeline(request(include_seen=True, page_token=token, page_size=5)))

    assert not hidden & set(posts(pages[1:]))
    assert set(posts(pages)) | hidden == set(feed.post_ids.tolist())
    assert len(posts(pages)) == len(set(posts(pages)))
