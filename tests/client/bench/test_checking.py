"""The load generator checks every reply."""

import numpy as np
import pytest
from google.rpc import status_pb2

from animora_client.bench.checking import OK, check_reply
from animora_client.bench.traffic import RankCall, TimelineCall
from animora_proto.ranking.v1 import ranking_pb2

CANDIDATES = np.array([10, 20, 30], np.int64)


def response(
    posts=(30, 10, 20), scores=(0.9, 0.5, 0.5), ranker=ranking_pb2.RANKER_NEUCF, version="v1", dropped=None
):
    return ranking_pb2.RankResponse(
        post_ids=posts, scores=scores, ranker=ranker, model_version=version, dropped=dropped
    )


def outcome(message, limit=0):
    return check_reply(
        RankCall(b"", (CANDIDATES,), limit, is_batch=False), message.SerializeToString()
    ).outcome


def test_correct_rankings_are_ok():
    dropped = ranking_pb2.DroppedCandidates(unknown=1, blocked=1)

    assert outcome(response()) == OK
    assert outcome(response((20,), (0.1,), dropped=dropped)) == OK
    assert outcome(response((20, 30), (0.1, 0.1)), limit=2) == OK
    assert outcome(response((), (), dropped=ranking_pb2.DroppedCandidates(seen=3))) == OK
    assert outcome(response(ranker=ranking_pb2.RANKER_HEURISTIC, version="")) == OK


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (response((10, 20, 40)), "a post that was no candidate"),
        (response((10, 20, 25)), "a post that was no candidate"),
        (response((10, 20, 10)), "a post twice"),
        (response(scores=(0.5, 0.9, 0.1)), "scores do not descend"),
        (response(scores=(0.9, float("nan"), 0.1)), "scores do not descend"),
        (response(scores=(0.9, 0.5)), "posts and scores differ in number"),
        (response((10, 20), (0.9, 0.5)), "posts are missing or too many"),
        (response(version=""), "no model version"),
    ],
)
def test_wrong_rankings_are_reported_with_the_problem(wrong, problem):
    assert outcome(wrong) == f"wrong reply: {problem}"


def test_a_ranking_longer_than_its_limit_is_wrong():
    assert outcome(response(), limit=2) == "wrong reply: posts are missing or too many"


def test_bytes_that_are_not_a_ranking_are_wrong():
    verdict = check_reply(RankCall(b"", (CANDIDATES,), 0, is_batch=False), b"\xff")

    assert verdict.outcome == "wrong reply: not a message"


def batch(*results):
    call = RankCall(b"", (CANDIDATES,) * 3, 0, is_batch=True)
    return check_reply(call, ranking_pb2.BatchRankResponse(results=results).SerializeToString())


def test_a_batch_has_the_outcome_of_its_worst_request():
    right = ranking_pb2.RankResult(response=response())
    refused = ranking_pb2.RankResult(error=status_pb2.Status(code=8))
    twice = ranking_pb2.RankResult(response=response((10, 10, 20)))

    assert batch(right, right, right).outcome == OK
    assert batch(right, refused, twice).outcome == "RESOURCE_EXHAUSTED"
    assert len(batch(right, refused, twice).rankings) == 1
    assert batch(twice, right, right).outcome == "wrong reply: a post twice"
    assert batch(right, right, ranking_pb2.RankResult()).outcome == "wrong reply: a result without an outcome"
    assert batch(right, right).outcome == "wrong reply: too few or too many results"


def page_outcome(message, page_size=3):
    return check_reply(TimelineCall(b"", page_size), message.SerializeToString()).outcome


def page(posts=(30, 10, 20), scores=(0.9, 0.3, 0.5), ranker=ranking_pb2.RANKER_NEUCF, version="v1"):
    return ranking_pb2.GetTimelineResponse(
        post_ids=posts, scores=scores, ranker=ranker, model_version=version, next_page_token="t"
    )


def test_correct_pages_are_ok_and_count_as_rankings():
    assert page_outcome(page()) == OK
    assert page_outcome(page(), page_size=0) == OK
    assert page_outcome(page((), ())) == OK
    assert page_outcome(page(ranker=ranking_pb2.RANKER_HEURISTIC, version="")) == OK
    assert check_reply(TimelineCall(b"", 3), page().SerializeToString()).rankings == (page(),)


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (page((10, 20, 10)), "a post twice"),
        (page((10, 20, 30, 40), (0.9, 0.5, 0.3, 0.1)), "more posts than a page has"),
        (page(scores=(0.9, float("nan"), 0.1)), "a score that is no number"),
        (page(scores=(0.9, 0.5)), "posts and scores differ in number"),
        (page(version=""), "no model version"),
    ],
)
def test_wrong_pages_are_reported_with_the_problem(wrong, problem):
    assert page_outcome(wrong) == f"wrong reply: {problem}"


def test_bytes_that_are_not_a_page_are_wrong():
    assert check_reply(TimelineCall(b"", 3), b"\xff").outcome == "wrong reply: not a message"
