"""Rank and BatchRank through the whole server: database, model, cache, wire."""

import asyncio
from typing import Any

import grpc
import numpy as np
import pytest
from structlog.testing import capture_logs

from animora_proto.ranking.v1 import ranking_pb2 as pb
from animora_server.scoring.terms import MODEL_TERMS
from tests.support.artifacts import tiny_artifact
from tests.support.feed import AUTHORS, COLD_USER
from tests.support.until import HANG_TIMEOUT

NETWORK = tiny_artifact("v1", seed=1)[1]
CANDIDATES = [100, 200, 300, 400, 5000, 5001, 5002]


def request(user: int = 7, posts=CANDIDATES, **fields) -> pb.RankRequest:
    return pb.RankRequest(user_id=user, post_ids=posts, **fields)


async def test_a_trained_user_gets_the_eager_networks_probabilities_best_first(stub, feed):
    response = await stub.Rank(request())
    expected = feed.probabilities(NETWORK, 7)
    assert sorted(response.post_ids) == CANDIDATES
    assert list(response.scores) == pytest.approx([expected[post] for post in response.post_ids], abs=1e-5)
    assert list(response.scores) == sorted(response.scores, reverse=True)
    assert (response.ranker, response.model_version) == (pb.RANKER_NEUCF, "v1")
    assert response.degraded_reason == pb.DEGRADED_REASON_UNSPECIFIED


async def test_scores_are_the_same_alone_and_in_any_batch(stub, feed):
    posts = [int(post) for post in feed.post_ids]
    alone = await stub.Rank(request(posts=posts, cache_policy=pb.CACHE_POLICY_BYPASS))
    batch = pb.BatchRankRequest(
        requests=[
            request(user=7 + n % 3, posts=posts[n:], cache_policy=pb.CACHE_POLICY_BYPASS) for n in range(30)
        ]
    )
    calls = [stub.BatchRank(batch), stub.Rank(request(posts=posts, cache_policy=pb.CACHE_POLICY_BYPASS))]
    results, together = await asyncio.gather(*calls)
    assert list(together.post_ids) == list(alone.post_ids)
    for n, result in enumerate(results.results):
        expected = feed.probabilities(NETWORK, 7 + n % 3)
        response = result.response
        assert list(response.scores) == pytest.approx(
            [expected[post] for post in response.post_ids], abs=1e-5
        )


@pytest.mark.failure(3)
async def test_a_cold_user_gets_the_heuristic_and_it_is_not_degraded(stub):
    response = await stub.Rank(request(user=COLD_USER))
    assert (response.ranker, response.model_version) == (pb.RANKER_HEURISTIC, "")
    assert response.degraded_reason == pb.DEGRADED_REASON_UNSPECIFIED
    assert all(0 <= score <= 1 for score in response.scores)
    never_seen = await stub.Rank(request(user=2**63 - 1))
    assert list(never_seen.post_ids) == list(response.post_ids)


@pytest.mark.failure(3)
async def test_dropped_candidates_are_counted_by_reason(stub, database):
    await database.execute("UPDATE animora_app.posts SET deleted_at = now() WHERE id = 100")
    await database.execute(
        "INSERT INTO animora_app.block_relations (blocker_id, blocked_id, created_at) VALUES ($1, 7, now())",
        AUTHORS[1],
    )
    posts = [100, 200, 300, 300, 5000, 2**63 - 1, -(2**63)]
    expected = pb.DroppedCandidates(duplicate=1, excluded=1, unknown=2, deleted=1, blocked=1)
    async with asyncio.timeout(HANG_TIMEOUT):
        while True:
            response = await stub.Rank(request(posts=posts, exclude_post_ids=[5000]))
            if response.dropped == expected:
                break
    assert list(response.post_ids) == [300]


async def test_exclude_seen_drops_seen_posts(stub, database):
    rows = await database.fetch("SELECT post_id FROM animora.interactions WHERE user_id = 7")
    seen = {row["post_id"] for row in rows}
    response = await stub.Rank(request(posts=[*seen, 300], exclude_seen=True))
    assert not seen & set(response.post_ids)
    assert response.dropped.seen == len(seen)


async def test_a_new_post_is_ranked_from_its_embeddings_soon_after_its_commit(stub, database):
    await database.execute(
        "INSERT INTO animora_app.posts"
        " (id, author_id, caption, created_at, image_embedding, caption_embedding)"
        " VALUES (9000, $1, 'new', now(), '{1,2,3}', '{4,5}')",
        AUTHORS[0],
    )
    async with asyncio.timeout(HANG_TIMEOUT):
        while not (response := await stub.Rank(request(posts=[9000]))).post_ids:
            pass
    image, caption = np.array([1, 2, 3], np.float32), np.array([4, 5], np.float32)
    vector = NETWORK.posts[0].detach().numpy() + image @ NETWORK.image.detach().numpy()
    vector = vector + caption @ NETWORK.caption.detach().numpy()
    logit = float(NETWORK.users[1].detach().numpy() @ vector)
    assert response.scores[0] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-5)


async def test_the_second_answer_comes_from_the_cache_and_is_the_same(stub):
    first = await stub.Rank(request())
    async with asyncio.timeout(HANG_TIMEOUT):
        while (second := await stub.Rank(request(posts=CANDIDATES[::-1]))).cache != pb.CACHE_STATUS_HIT:
            pass
    assert first.cache == pb.CACHE_STATUS_MISS
    assert list(second.post_ids) == list(first.post_ids)
    assert list(second.scores) == list(first.scores)
    bypassed = await stub.Rank(request(cache_policy=pb.CACHE_POLICY_BYPASS))
    assert bypassed.cache == pb.CACHE_STATUS_BYPASS


@pytest.mark.failure(1)
async def test_a_malformed_message_is_an_invalid_argument(application):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{application.grpc.port}") as channel:
        for method in ("Rank", "BatchRank"):
            call: Any = channel.unary_unary(f"/animora.ranking.v1.RankingService/{method}")
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call(b"\xff\xff\xff")
            assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "not a valid message" in (error.value.details() or "")


async def test_unpacked_ids_are_ranked(application, stub):
    sent = request(posts=[], cache_policy=pb.CACHE_POLICY_BYPASS).SerializeToString()
    sent += b"".join(b"\x11" + np.int64(post).tobytes() for post in CANDIDATES)  # post_ids, not packed
    packed = request(cache_policy=pb.CACHE_POLICY_BYPASS)
    assert pb.RankRequest.FromString(sent) == packed
    async with grpc.aio.insecure_channel(f"127.0.0.1:{application.grpc.port}") as channel:
        rank: Any = channel.unary_unary("/animora.ranking.v1.RankingService/Rank")
        batch_rank: Any = channel.unary_unary("/animora.ranking.v1.RankingService/BatchRank")
        response = pb.RankResponse.FromString(await rank(sent))
        results = pb.BatchRankResponse.FromString(await batch_rank(b"\x0a" + bytes([len(sent)]) + sent))
    assert response.post_ids
    assert list(response.post_ids) == list((await stub.Rank(packed)).post_ids)
    assert list(results.results[0].response.post_ids) == list(response.post_ids)


@pytest.mark.failure(2)
async def test_a_batch_gives_each_request_its_own_outcome(stub):
    batch = pb.BatchRankRequest(
        requests=[request(), request(posts=[]), request(limit=-1), request(user=COLD_USER)]
    )
    with capture_logs() as lines:
        results = (await stub.BatchRank(batch, metadata=(("x-request-id", "mine"),))).results
    assert [(line["event"], line["requests"]) for line in lines if line.get("request_id") == "mine"] == [
        ("BatchRank: INVALID_ARGUMENT", 2)
    ]
    assert [result.WhichOneof("outcome") for result in results] == ["response", "error", "error", "response"]
    assert [result.error.code for result in results[1:3]] == [grpc.StatusCode.INVALID_ARGUMENT.value[0]] * 2
    assert "post_ids" in results[1].error.message
    assert "limit" in results[2].error.message


async def test_terms_add_up_to_the_logit_of_the_score(stub, database):
    await database.execute(
        "INSERT INTO animora_app.posts (id, author_id, caption, created_at, image_embedding)"
        " VALUES (9000, $1, 'no embedding', now(), NULL), (9001, $1, 'an image', now(), '{1,2,3}')",
        AUTHORS[0],
    )
    async with asyncio.timeout(HANG_TIMEOUT):
        while not {9000, 9001} <= set((await stub.Rank(request(posts=[9000, 9001]))).post_ids):
            pass
    response = await stub.Rank(request(posts=[*CANDIDATES, 9000, 9001], explain=True))
    terms = {}
    for post, score, explanation in zip(
        response.post_ids, response.scores, response.explanations, strict=True
    ):
        terms[post] = {term.name: term.value for term in explanation.terms}
        assert tuple(terms[post]) == MODEL_TERMS
        assert sum(terms[post].values()) == pytest.approx(np.log(score / (1 - score)), abs=1e-4)
    assert {name for name, value in terms[100].items() if not value} == set()
    assert terms[9001]["gmf_image"]
    assert not terms[9001]["gmf_caption"]
    assert not any(value for name, value in terms[9000].items() if name != "bias")


async def test_a_cold_users_terms_are_the_heuristics(stub):
    response = await stub.Rank(request(user=COLD_USER, explain=True))
    for score, explanation in zip(response.scores, response.explanations, strict=True):
        assert [term.name for term in explanation.terms] == ["popularity", "recency"]
        assert sum(term.value for term in explanation.terms) == pytest.approx(score, abs=1e-6)


async def test_explain_returns_the_reason_of_each_missing_candidate(stub, database):
    await database.execute("UPDATE animora_app.posts SET deleted_at = now() WHERE id = 100")
    await database.execute(
        "INSERT INTO animora_app.block_relations (blocker_id, blocked_id, created_at) VALUES ($1, 7, now())",
        AUTHORS[1],
    )
    await database.execute(
        "INSERT INTO animora_app.likes (user_id, post_id, created_at) VALUES (7, 300, now())"
        " ON CONFLICT DO NOTHING"
    )
    rows = await database.fetch("SELECT post_id FROM animora.interactions WHERE user_id = 7")
    unseen = [post for post in (5003, 5007, 5011, 5015) if post not in {row["post_id"] for row in rows}][:2]
    query = request(
        posts=[2**63 - 1, 5000, 300, 200, 200, 100, *unseen],
        exclude_post_ids=[5000],
        exclude_seen=True,
        explain=True,
        limit=1,
    )
    expected = {
        100: pb.DROP_REASON_DELETED,
        200: pb.DROP_REASON_BLOCKED,
        300: pb.DROP_REASON_SEEN,
        5000: pb.DROP_REASON_EXCLUDED,
        2**63 - 1: pb.DROP_REASON_UNKNOWN,
    }
    async with asyncio.timeout(HANG_TIMEOUT):
        while True:
            response = await stub.Rank(query)
            reasons = {post.post_id: post.reason for post in response.dropped_posts}
            outranked = dict.fromkeys(set(unseen) - set(response.post_ids), pb.DROP_REASON_OUTRANKED)
            if reasons == {**expected, **outranked}:
                break
    assert len(outranked) == 1
    assert list(reasons) == sorted(reasons)


async def test_a_version_that_is_not_resident_is_a_failed_precondition(stub):
    assert (await stub.Rank(request(model_version="v1"))).model_version == "v1"
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.Rank(request(model_version="v0"))
    assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.failure(2)
async def test_ten_thousand_candidates_are_ranked_and_one_more_is_refused(stub):
    response = await stub.Rank(request(posts=range(10_000)), timeout=10)
    assert response.dropped.unknown == 10_000 - len(response.post_ids)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.Rank(request(posts=range(10_001)), timeout=10)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
