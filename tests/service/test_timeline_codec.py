"""The codec of GetTimeline: requests to queries, pages to responses."""

from typing import cast

import numpy as np
import pytest

from animora_proto.ranking.v1 import ranking_pb2 as pb
from animora_server.errors import InvalidRequest
from animora_server.service.rank_codec import EXPLAINED_WEIGHT
from animora_server.service.timeline_codec import admission_weight, read_timeline_query, write_page
from animora_server.settings import TimelineSettings
from animora_server.types import (
    CachePolicy,
    CacheStatus,
    DegradedReason,
    DropReason,
    PageResult,
    PageTerms,
    RankerName,
    Terms,
)

SETTINGS = TimelineSettings(page_size=20, max_page_size=100)
UNKNOWN_POLICY = cast("pb.CachePolicy.ValueType", 99)


@pytest.mark.failure(2)
@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("user_id", pb.GetTimelineRequest()),
        ("page_size", pb.GetTimelineRequest(user_id=1, page_size=-1)),
        ("cache_policy", pb.GetTimelineRequest(user_id=1, cache_policy=UNKNOWN_POLICY)),
        ("exclude_post_ids", pb.GetTimelineRequest(user_id=1, exclude_post_ids=range(1001))),
        ("explain_post_ids", pb.GetTimelineRequest(user_id=1, explain_post_ids=range(501))),
    ],
)
def test_a_wrong_field_is_named(field, request_):
    with pytest.raises(InvalidRequest) as raised:
        read_timeline_query(request_, SETTINGS, 5.0)
    assert raised.value.field == field


@pytest.mark.parametrize(("requested", "page_size"), [(0, 20), (7, 7), (1000, 100)])
def test_a_page_has_the_default_size_or_the_requested_one_up_to_the_largest(requested, page_size):
    request = pb.GetTimelineRequest(user_id=0, page_size=requested)
    assert read_timeline_query(request, SETTINGS, 5.0).page_size == page_size


def test_at_most_five_hundred_posts_of_a_page_can_be_explained():
    wide = TimelineSettings(max_page_size=1000)
    request = pb.GetTimelineRequest(user_id=0, page_size=500, explain=True)
    assert read_timeline_query(request, wide, 5.0).explain
    request.page_size = 501
    with pytest.raises(InvalidRequest, match="501 posts: at most 500") as raised:
        read_timeline_query(request, wide, 5.0)
    assert raised.value.field == "explain"
    assert (
        read_timeline_query(request, SETTINGS, 5.0).page_size == 100
    )  # posts beyond the page are not explained


def test_posts_that_are_explained_count_as_candidates():
    def weight(**fields):
        return admission_weight(
            read_timeline_query(pb.GetTimelineRequest(user_id=0, **fields), SETTINGS, 5.0)
        )

    assert weight() == 0
    assert weight(explain=True, page_size=10) == 10 * EXPLAINED_WEIGHT
    assert weight(explain_post_ids=[1, 2, 3]) == 3


def test_every_field_reaches_the_query():
    request = pb.GetTimelineRequest(
        user_id=-5,
        page_token="abc",
        exclude_post_ids=[3, -1],
        include_seen=True,
        cache_policy=pb.CACHE_POLICY_REFRESH,
        explain=True,
        explain_post_ids=[9],
    )

    query = read_timeline_query(request, SETTINGS, 5.0)

    assert (query.user_id, query.page_token, query.deadline) == (-5, "abc", 5.0)
    assert (query.exclude_post_ids.tolist(), query.explain_post_ids.tolist()) == ([3, -1], [9])
    assert query.include_seen
    assert query.explain
    assert query.cache_policy is CachePolicy.REFRESH


def test_every_part_of_a_page_reaches_the_response():
    page = PageResult(
        post_ids=np.array([5, -6]),
        scores=np.array([0.5, 0.25], np.float32),
        next_page_token="next",
        ranker=RankerName.HEURISTIC,
        model_version="",
        cache=CacheStatus.STALE,
        degraded_reason=DegradedReason.OVERLOADED,
        explained=PageTerms(
            Terms(("popularity", "recency"), np.array([[0.25, 0.5], [0.5, 0.125]], np.float32)),
            Terms(("relevance",), np.array([[1.0], [2.0]], np.float32)),
            np.array([False, True]),
        ),
        dropped_posts={7: DropReason.OWN, 8: DropReason.TOO_OLD},
    )

    response = pb.GetTimelineResponse.FromString(write_page(page).SerializeToString())

    assert list(response.post_ids) == [5, -6]
    assert list(response.scores) == [0.5, 0.25]
    assert response.next_page_token == "next"
    assert (response.ranker, response.cache) == (pb.RANKER_HEURISTIC, pb.CACHE_STATUS_STALE)
    assert response.degraded_reason == pb.DEGRADED_REASON_OVERLOADED
    first, second = response.explanations
    assert [(term.name, term.value) for term in first.terms] == [("popularity", 0.25), ("recency", 0.5)]
    assert [(term.name, term.value) for term in second.reranking_terms] == [("relevance", 2.0)]
    assert (first.exploration, second.exploration) == (False, True)
    assert [(post.post_id, post.reason) for post in response.dropped_posts] == [
        (7, pb.DROP_REASON_OWN),
        (8, pb.DROP_REASON_TOO_OLD),
    ]


def test_a_page_that_is_not_explained_has_no_explanations():
    page = PageResult(np.array([5]), np.ones(1, np.float32), "", RankerName.NEUCF, "v1", CacheStatus.HIT)

    response = write_page(page)

    assert not response.explanations
    assert not response.dropped_posts
    assert response.model_version == "v1"
