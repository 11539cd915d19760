"""The codec of Rank and BatchRank: requests to queries, rankings to responses."""

import numpy as np
import pytest

from animora_proto.ranking.v1 import ranking_pb2 as pb
from animora_server.errors import InvalidRequest
from animora_server.service.rank_codec import (
    EXPLAINED_WEIGHT,
    admission_weight,
    check_queries,
    read_batch,
    read_query,
    write_dropped_posts,
    write_ranking,
)
from animora_server.settings import RankingSettings
from animora_server.types import (
    CachePolicy,
    CacheStatus,
    DegradedReason,
    DropReason,
    RankedCandidates,
    RankerName,
    Terms,
)

LIMITS = RankingSettings(max_candidates=5, max_batch_requests=2, max_batch_candidates=6)
UNKNOWN = b"\x78\x01"  # field 15, which no version has


def request(**fields) -> pb.RankRequest:
    return pb.RankRequest(**{"user_id": 7, "post_ids": [1, 2], **fields})


def test_a_request_becomes_a_query():
    limits = np.iinfo(np.int64)
    query = read_query(
        request(
            user_id=-1,
            post_ids=[int(limits.max), int(limits.min), 0],
            limit=3,
            cache_policy=pb.CACHE_POLICY_REFRESH,
            model_version="v1",
            exclude_seen=True,
            exclude_post_ids=[5],
            explain=True,
        ),
        LIMITS,
        deadline=12.5,
    )
    assert query.user_id == -1
    assert query.post_ids.tolist() == [limits.max, limits.min, 0]
    assert query.post_ids.dtype == np.int64
    assert query.exclude_post_ids.tolist() == [5]
    assert (query.limit, query.cache_policy, query.model_version) == (3, CachePolicy.REFRESH, "v1")
    assert (query.exclude_seen, query.explain, query.deadline) == (True, True, 12.5)


def test_user_zero_is_valid_and_a_missing_user_is_an_error():
    assert read_query(request(user_id=0), LIMITS, 0.0).user_id == 0
    with pytest.raises(InvalidRequest, match="user_id"):
        read_query(pb.RankRequest(post_ids=[1]), LIMITS, 0.0)


@pytest.mark.failure(2)
@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"post_ids": []}, "post_ids"),
        ({"post_ids": range(6)}, "post_ids"),
        ({"limit": -1}, "limit"),
        ({"cache_policy": 17}, "cache_policy"),
        ({"exclude_post_ids": range(1001)}, "exclude_post_ids"),
    ],
)
def test_a_wrong_field_is_named(fields, field):
    with pytest.raises(InvalidRequest) as error:
        read_query(request(**fields), LIMITS, 0.0)
    assert error.value.field == field


def test_at_most_five_hundred_candidates_can_be_explained():
    settings = RankingSettings()
    assert read_query(request(post_ids=range(500), explain=True), settings, 0.0).explain
    with pytest.raises(InvalidRequest, match="explain"):
        read_query(request(post_ids=range(501), explain=True), settings, 0.0)


def batch(*requests: pb.RankRequest) -> bytes:
    return pb.BatchRankRequest(requests=requests).SerializeToString()


@pytest.mark.failure(2)
def test_a_batch_has_bounds():
    most = LIMITS.max_batch_requests
    assert len(read_batch(batch(*[request()] * most), LIMITS)) == most
    for data in (b"", batch(*[request()] * (most + 1)), b"\x0a\x00" * 1_000_000, UNKNOWN):
        with pytest.raises(InvalidRequest) as error:
            read_batch(data, LIMITS)
        assert error.value.field == "requests"
    queries = [read_query(request(post_ids=range(3)), LIMITS, 0.0)] * 3
    check_queries(queries[:2], LIMITS)
    with pytest.raises(InvalidRequest, match="hold 9 candidates") as error:
        check_queries(queries, LIMITS)
    assert error.value.field == "requests"


def test_requests_of_a_batch_are_read_from_ids_in_several_chunks():
    in_chunks = request(post_ids=[3]).SerializeToString() + request(post_ids=[4, 5]).SerializeToString()
    data = batch(request()) + b"\x0a" + bytes([len(in_chunks)]) + in_chunks
    queries = [read_query(each, LIMITS, 0.0) for each in read_batch(data, LIMITS)]
    assert [query.post_ids.tolist() for query in queries] == [[1, 2], [3, 4, 5]]


@pytest.mark.failure(1)
def test_a_batch_with_a_malformed_request_is_malformed():
    with pytest.raises(InvalidRequest, match="not a valid message"):
        read_batch(batch(request()) + b"\x0a\x01\xff", LIMITS)


def test_at_most_five_thousand_candidates_of_a_batch_can_be_explained():
    settings = RankingSettings()
    explained = [read_query(request(post_ids=range(500), explain=True), settings, 0.0)] * 10
    plain = [read_query(request(post_ids=range(500)), settings, 0.0)] * 100
    check_queries([*explained, *plain], settings)
    one_more = read_query(request(post_ids=[1], explain=True), settings, 0.0)
    with pytest.raises(InvalidRequest, match="5001 candidates: at most 5000") as error:
        check_queries([*explained, one_more], settings)
    assert error.value.field == "requests.explain"


def test_an_explained_post_weighs_more_in_admission():
    assert admission_weight(read_query(request(), LIMITS, 0.0)) == 2
    assert admission_weight(read_query(request(explain=True), LIMITS, 0.0)) == 2 * EXPLAINED_WEIGHT


def test_a_ranking_becomes_a_response():
    written = write_ranking(
        RankedCandidates(
            post_ids=np.array([3, 1]),
            scores=np.array([0.5, 0.25], np.float32),
            ranker=RankerName.HEURISTIC,
            cache=CacheStatus.BYPASS,
            degraded_reason=DegradedReason.OVERLOADED,
            dropped={DropReason.SEEN: 2, DropReason.UNKNOWN: 1},
            terms=Terms(("popularity", "recency"), np.array([[0.25, 0.25], [0.25, 0]], np.float32)),
            dropped_posts={2: DropReason.SEEN, 9: DropReason.UNKNOWN},
        )
    )
    response = pb.RankResponse.FromString(written)
    assert list(response.post_ids) == [3, 1]
    assert list(response.scores) == [0.5, 0.25]
    assert response.ranker == pb.RANKER_HEURISTIC
    assert response.degraded_reason == pb.DEGRADED_REASON_OVERLOADED
    assert response.dropped == pb.DroppedCandidates(seen=2, unknown=1)
    assert [term.value for term in response.explanations[0].terms] == [0.25, 0.25]
    assert response.explanations[1].terms[0].name == "popularity"
    assert [(post.post_id, post.reason) for post in response.dropped_posts] == [
        (2, pb.DROP_REASON_SEEN),
        (9, pb.DROP_REASON_UNKNOWN),
    ]


def test_every_drop_reason_of_a_post_has_a_name_on_the_wire():
    # A duplicate is not reported: the post is a candidate once.
    reasons = [reason for reason in DropReason if reason is not DropReason.DUPLICATE]
    response = pb.RankResponse()
    write_dropped_posts(dict(enumerate(reasons)), response.dropped_posts)
    names = [pb.DropReason.Name(post.reason) for post in response.dropped_posts]
    assert names == [f"DROP_REASON_{reason.name}" for reason in reasons]
