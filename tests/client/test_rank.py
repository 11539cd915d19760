"""Successful calls of both clients."""

import asyncio

import numpy as np
import pytest

from animora_client import (
    AsyncRankingClient,
    CachePolicy,
    CacheStatus,
    DegradedReason,
    Dropped,
    DropReason,
    Health,
    InvalidArgument,
    RankedPost,
    Ranker,
    Ranking,
    RankingClient,
    RankRequest,
)
from animora_proto.ranking.v1 import ranking_pb2
from tests.client.scripted_server import answering

LARGEST = 2**63 - 1


async def test_posts_are_returned_best_first_with_ranker_and_model_version(client):
    ranking = await client.rank(7, [1, 3, 2, -5])

    assert ranking.post_ids == (3, 2, 1)
    assert ranking.scores == pytest.approx((1 / 2, 1 / 3, 1 / 4))
    assert ranking.posts[0] == RankedPost(post_id=3, score=0.5)
    assert [post_id for post_id, _ in ranking] == [3, 2, 1]
    assert len(ranking) == 3
    assert (ranking.ranker, ranking.model_version) == (Ranker.NEUCF, "v1")
    assert ranking.cache is CacheStatus.MISS
    assert ranking.degraded_reason is None
    assert ranking.dropped == Dropped(unknown=1)
    assert ranking.dropped.total == 1
    assert ranking.explanations == ()


async def test_every_option_reaches_the_server(client, server):
    await client.rank(
        -LARGEST - 1,
        (LARGEST, 0),
        limit=1,
        cache_policy=CachePolicy.BYPASS,
        model_version="v7",
        exclude_seen=True,
        exclude_post_ids={5},
        explain=True,
    )

    assert server.requests == [
        ranking_pb2.RankRequest(
            user_id=-LARGEST - 1,
            post_ids=[LARGEST, 0],
            limit=1,
            cache_policy=ranking_pb2.CACHE_POLICY_BYPASS,
            model_version="v7",
            exclude_seen=True,
            exclude_post_ids=[5],
            explain=True,
        )
    ]


async def test_user_0_is_sent_as_a_user(client, server):
    await client.rank(0, [1])

    assert server.requests[0].HasField("user_id")


async def test_candidates_may_be_an_array(client):
    assert (await client.rank(7, np.array([4, 9]))).post_ids == (9, 4)


async def test_explanations_are_parallel_to_the_posts(client):
    ranking = await client.rank(7, [1, 2], explain=True)

    assert ranking.explanations == ({"gmf": 0.5, "bias": -0.25},) * 2


async def test_explain_returns_the_reason_of_each_dropped_post(client):
    ranking = await client.rank(7, [1, 2, -3], limit=1, explain=True)

    assert ranking.dropped_posts == {-3: DropReason.UNKNOWN, 1: DropReason.OUTRANKED}
    assert (await client.rank(7, [1, 2, -3], limit=1)).dropped_posts == {}


async def test_a_degraded_response_has_its_reason(client, server):
    response = ranking_pb2.RankResponse(
        post_ids=[1],
        scores=[0.5],
        ranker=ranking_pb2.RANKER_HEURISTIC,
        cache=ranking_pb2.CACHE_STATUS_BYPASS,
        degraded_reason=ranking_pb2.DEGRADED_REASON_OVERLOADED,
    )
    server.script = [answering(response)]

    assert await client.rank(7, [1]) == Ranking(
        (1,), (0.5,), Ranker.HEURISTIC, degraded_reason=DegradedReason.OVERLOADED
    )


async def test_values_of_a_newer_server_do_not_break_an_older_client(client, server):
    newer = ranking_pb2.RankResponse.FromString(b"\x18\x63\x28\x63\x30\x63")  # fields 3, 5 and 6 are 99
    server.script = [answering(newer)]

    ranking = await client.rank(7, [1])

    assert (ranking.ranker, ranking.cache) == (Ranker.OTHER, CacheStatus.OTHER)
    assert ranking.degraded_reason is DegradedReason.OTHER


async def test_a_batch_gives_each_request_its_ranking_or_its_error(client):
    first, second, third = await client.batch_rank(
        [RankRequest(1, [1, 2]), RankRequest(2, []), RankRequest(3, [5, 6], limit=1)]
    )

    assert first.post_ids == (2, 1)
    assert isinstance(second, InvalidArgument)
    assert second.field == "requests[1].post_ids"
    assert third.post_ids == (6,)


async def test_metadata_of_a_call_is_merged_over_that_of_the_client(server):
    own = {"authorization": "Bearer t", "x-request-id": "client"}
    async with AsyncRankingClient(server.target, timeout=10, metadata=own) as client:
        await client.rank(7, [1], metadata={"X-Request-Id": "call", "traceparent": "00-ab-cd-01"})

    sent = server.metadata[0]
    assert sent["authorization"] == "Bearer t"
    assert sent["x-request-id"] == "call"
    assert sent["traceparent"] == "00-ab-cd-01"
    assert sent["user-agent"].startswith("animora-client/")


async def test_health_returns_the_servers_status(client, server):
    assert await client.health() is Health.SERVING

    await server.set_health(serving=False)

    assert await client.health() is Health.NOT_SERVING


async def test_the_sync_client_works_in_threads(server):
    def calls():
        with RankingClient(server.target, timeout=10) as client:
            ranking = client.rank(7, [1, 3, 2], limit=2)
            batch = client.batch_rank([RankRequest(1, [1, 2]), RankRequest(2, [])])
            return ranking, batch, client.health()

    ranking, (first, second), health = await asyncio.to_thread(calls)

    assert ranking.post_ids == (3, 2)
    assert first.post_ids == (2, 1)
    assert isinstance(second, InvalidArgument)
    assert health is Health.SERVING


async def test_a_client_that_is_not_open_raises_an_error_that_names_with(server):
    client = AsyncRankingClient(server.target)
    with pytest.raises(RuntimeError, match="`async with`"):
        await client.rank(7, [1])

    with RankingClient(server.target) as closed:
        pass
    with pytest.raises(RuntimeError, match="`with`"):
        closed.rank(7, [1])


async def test_an_id_beyond_64_bits_is_refused_before_the_call(client, server):
    with pytest.raises(ValueError, match="range"):
        await client.rank(7, [2**63])

    assert server.requests == []
