"""Timelines of both clients: pages, posts, and timelines that are gone while they are read."""

import asyncio

import grpc
import pytest

from animora_client import (
    CachePolicy,
    CacheStatus,
    DropReason,
    Explanation,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    RankedPost,
    Ranker,
    RankingClient,
    SnapshotGone,
    TimelinePage,
)
from animora_proto.ranking.v1 import ranking_pb2
from tests.client.scripted_server import answering, bad_request, failing, paging, snapshot_gone

Code = grpc.StatusCode


async def read(timeline):
    return [post.post_id async for post in timeline]


async def read_pages(timeline):
    return [page.post_ids async for page in timeline.pages()]


async def test_a_page_has_ranker_model_version_and_the_token_of_the_next(client, server):
    page = await client.timeline_page(7, page_size=2)

    assert page.post_ids == (12, 11)
    assert page.scores == pytest.approx((1 / 2, 1 / 3))
    assert page.posts[0] == RankedPost(post_id=12, score=0.5)
    assert len(page) == 2
    assert (page.ranker, page.model_version) == (Ranker.NEUCF, "v1")
    assert (page.cache, page.degraded_reason) == (CacheStatus.HIT, None)
    assert (page.explanations, page.dropped_posts) == ((), {})

    following = await client.timeline_page(7, page_size=2, page_token=page.next_page_token)

    assert following.post_ids == (10, 9)
    assert following.cache is CacheStatus.STALE


async def test_every_option_of_a_page_reaches_the_server(client, server):
    await client.timeline_page(
        0,
        page_size=3,
        page_token="4",
        exclude_post_ids={5},
        include_seen=True,
        cache_policy=CachePolicy.BYPASS,
        explain=True,
        explain_post_ids=[99],
    )

    assert server.timeline_requests == [
        ranking_pb2.GetTimelineRequest(
            user_id=0,
            page_size=3,
            page_token="4",
            exclude_post_ids=[5],
            include_seen=True,
            cache_policy=ranking_pb2.CACHE_POLICY_BYPASS,
            explain=True,
            explain_post_ids=[99],
        )
    ]
    assert server.timeline_requests[0].HasField("user_id")


async def test_a_page_explains_its_posts_and_those_that_are_missing(client):
    page = await client.timeline_page(7, explain=True, explain_post_ids=[99, 12])

    explanation = page.explanations[4]
    assert explanation.terms["gmf_caption"] == -0.125
    assert explanation.reranking_terms == {"relevance": 0.75, "author_diversity": -0.25}
    assert explanation.exploration
    assert page.dropped_posts == {99: DropReason.BLOCKED}


async def test_a_reason_of_a_newer_server_does_not_break_an_older_client(client, server):
    response = ranking_pb2.GetTimelineResponse()
    response.dropped_posts.add(post_id=3).MergeFromString(b"\x10\x63")  # field 2 is 99
    server.script = [answering(response)]

    assert (await client.timeline_page(7)).dropped_posts == {3: DropReason.OTHER}


async def test_a_feed_is_read_to_its_end_page_by_page(client, server):
    timeline = client.timeline(7, page_size=5)

    assert await read_pages(timeline) == [(12, 11, 10, 9, 8), (7, 6, 5, 4, 3), (2, 1)]
    assert await read(timeline) == list(range(12, 0, -1)), "each loop begins at the first page"
    assert [request.page_token for request in server.timeline_requests] == ["", "5", "10"] * 2


async def test_a_page_is_requested_only_when_its_first_post_is_read(client, server):
    posts = aiter(client.timeline(7, page_size=2))
    assert server.timeline_requests == []

    await anext(posts)
    await anext(posts)
    assert len(server.timeline_requests) == 1

    assert (await anext(posts)).post_id == 10
    assert len(server.timeline_requests) == 2


@pytest.mark.parametrize(
    ("page_size", "sizes"), [(0, [7]), (3, [3, 3, 1]), (100, [7])], ids=["open", "small", "large"]
)
async def test_a_limit_ends_the_feed_with_the_token_of_the_next_post(client, server, page_size, sizes):
    pages = [page async for page in client.timeline(7, limit=7, page_size=page_size).pages()]

    assert [post_id for page in pages for post_id in page.post_ids] == list(range(12, 5, -1))
    assert [request.page_size for request in server.timeline_requests] == sizes
    assert pages[-1].next_page_token == "7"


async def test_a_limit_may_be_more_than_a_page_can_hold(client, server):
    assert len(await read(client.timeline(7, limit=2**40))) == 12
    assert server.timeline_requests[0].page_size == 2**31 - 1


async def test_options_are_sent_with_every_page(client, server):
    await read(client.timeline(7, include_seen=True, exclude_post_ids=[3], explain=True))

    assert len(server.timeline_requests) == 3
    assert all(request.include_seen and request.explain for request in server.timeline_requests)
    assert {tuple(request.exclude_post_ids) for request in server.timeline_requests} == {(3,)}


async def test_an_empty_feed_is_one_empty_page(client, server):
    server.timeline = paging([])

    assert await read_pages(client.timeline(7)) == [()]
    assert await read(client.timeline(7)) == []


async def test_a_lost_timeline_is_followed_by_another_without_repeats(client, server):
    renewed = paging([20, 12, 11, 10, 9, 8, 7, 6, 5])
    server.script = [server.timeline, snapshot_gone(), renewed, renewed]

    assert await read(client.timeline(7, exclude_post_ids=[6])) == [12, 11, 10, 9, 8, 20, 7, 5]

    again = server.timeline_requests[2]
    assert again.page_token == ""
    assert sorted(again.exclude_post_ids) == [6, 8, 9, 10, 11, 12]


async def test_timelines_may_be_lost_while_each_has_new_posts(client, server):
    normal = server.timeline
    server.script = [normal, snapshot_gone()] * 5

    assert await read(client.timeline(7, page_size=2)) == list(range(12, 0, -1))


async def test_a_timeline_that_is_lost_before_any_new_post_is_an_error(client, server):
    server.script = [server.timeline, snapshot_gone(), snapshot_gone()]
    seen = []

    with pytest.raises(SnapshotGone):
        seen += [post.post_id async for post in client.timeline(7)]

    assert len(server.timeline_requests) == 3


async def test_posts_that_the_server_repeats_are_skipped(client, server):
    stubborn = ranking_pb2.GetTimelineResponse(post_ids=[12, 3, 11], scores=[0.75, 0.5, 0.25])
    stubborn.explanations.extend(
        ranking_pb2.Explanation(terms=[ranking_pb2.Term(name=name, value=1)]) for name in "abc"
    )
    server.script = [server.timeline, snapshot_gone(), answering(stubborn)]

    *_, last = [page async for page in client.timeline(7).pages()]

    assert last == TimelinePage(
        (3,),
        (0.5,),
        Ranker.OTHER,
        cache=CacheStatus.OTHER,
        explanations=(Explanation({"b": 1}),),
    )


async def test_a_lost_timeline_of_a_callers_own_token_is_raised_to_the_caller(client, server):
    server.script = [snapshot_gone()]
    with pytest.raises(SnapshotGone) as raised:
        await client.timeline_page(7, page_token="5")
    assert isinstance(raised.value, FailedPrecondition)
    assert (raised.value.reason, raised.value.request_id) == ("SNAPSHOT_GONE", "request-1")

    server.script = [snapshot_gone()]
    with pytest.raises(SnapshotGone):
        await read(client.timeline(7, page_token="5"))

    server.script = [server.timeline, snapshot_gone()]
    with pytest.raises(SnapshotGone):
        await read(client.timeline(7, page_token="1"))


async def test_a_page_token_that_repeats_ends_the_loop(client, server):
    server.script = [answering(ranking_pb2.GetTimelineResponse(next_page_token="5"))] * 9

    with pytest.raises(Internal, match="leads to the same page"):
        await read(client.timeline(7))

    assert len(server.timeline_requests) == 2


async def test_other_errors_end_the_loop_and_keep_what_was_read(client, server):
    detail = bad_request("page_token", "not one of this server's")
    server.script = [server.timeline, failing(Code.INVALID_ARGUMENT, "page_token: not one", detail)]
    posts = aiter(client.timeline(7))

    assert [(await anext(posts)).post_id for _ in range(5)] == [12, 11, 10, 9, 8]
    with pytest.raises(InvalidArgument) as raised:
        await anext(posts)

    assert raised.value.field == "page_token"


async def test_a_page_is_retried_while_the_server_is_unavailable(client, server):
    server.script = [server.timeline, failing(Code.UNAVAILABLE, "draining")]

    assert await read(client.timeline(7)) == list(range(12, 0, -1))
    assert [request.page_token for request in server.timeline_requests] == ["", "5", "5", "10"]


async def test_a_page_with_fewer_scores_than_posts_is_an_error(client, server):
    server.script = [answering(ranking_pb2.GetTimelineResponse(post_ids=[1, 2], scores=[0.5]))]

    with pytest.raises(Internal, match="2 posts, 1 scores"):
        await client.timeline_page(7)


async def test_invalid_arguments_are_refused_before_a_call(client, server):
    with pytest.raises(ValueError, match="limit must be 0 or more"):
        await read(client.timeline(7, limit=-1))
    with pytest.raises(ValueError, match="above 0"):
        client.timeline(7, timeout=0)

    assert server.timeline_requests == []


async def test_the_sync_client_works_in_threads(server):
    server.script = [server.timeline, server.timeline, snapshot_gone()]

    def calls():
        with RankingClient(server.target, timeout=10) as client:
            page = client.timeline_page(7, page_size=1)
            posts = [post.post_id for post in client.timeline(7)]
            pages = [page.post_ids for page in client.timeline(7, limit=8, page_size=5).pages()]
            server.script = [snapshot_gone()]
            with pytest.raises(SnapshotGone):
                list(client.timeline(7))
            return page, posts, pages

    page, posts, pages = await asyncio.to_thread(calls)

    assert page.post_ids == (12,)
    assert posts == list(range(12, 0, -1))
    assert pages == [(12, 11, 10, 9, 8), (7, 6, 5)]
