"""Decodes Rank and BatchRank requests to queries, every field checked, and encodes rankings."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from google.rpc import status_pb2

from animora_proto.ranking.v1 import ranking_pb2 as pb
from animora_server.errors import InvalidRequest
from animora_server.service.explanations import encode_explanations
from animora_server.service.wire_codec import (
    NO_IDS,
    BatchRankRequest,
    BatchRankResponse,
    BytesField,
    RankRequest,
    RankResponse,
    RankResult,
    pack,
    parse,
    read_elements,
    read_ids,
)
from animora_server.settings import RankingSettings
from animora_server.types import (
    MIN_RESERVE,
    CachePolicy,
    CacheStatus,
    DegradedReason,
    DropReason,
    RankedCandidates,
    RankerName,
    RankQuery,
)

if TYPE_CHECKING:
    from google.protobuf.internal.containers import RepeatedCompositeFieldContainer

MAX_EXCLUDED = 1000
MAX_EXPLAINED = 500
# Candidates of a BatchRank: with two embeddings a post and the default model, 50 ms on the device and 700 kB.
MAX_BATCH_EXPLAINED = 5000
# How many candidates can be ranked in the CPU time that it takes to explain one post.
EXPLAINED_WEIGHT = 50

POST_IDS, SCORES = BytesField(RankResponse, "post_ids"), BytesField(RankResponse, "scores")
EXPLANATIONS = BytesField(RankResponse, "explanations")
RESPONSE, RESULTS = BytesField(RankResult, "response"), BytesField(BatchRankResponse, "results")

CACHE_POLICIES = {
    pb.CACHE_POLICY_UNSPECIFIED: CachePolicy.DEFAULT,
    pb.CACHE_POLICY_DEFAULT: CachePolicy.DEFAULT,
    pb.CACHE_POLICY_REFRESH: CachePolicy.REFRESH,
    pb.CACHE_POLICY_BYPASS: CachePolicy.BYPASS,
}
CACHE_STATUSES = {
    CacheStatus.HIT: pb.CACHE_STATUS_HIT,
    CacheStatus.MISS: pb.CACHE_STATUS_MISS,
    CacheStatus.BYPASS: pb.CACHE_STATUS_BYPASS,
    CacheStatus.STALE: pb.CACHE_STATUS_STALE,
}
RANKERS = {RankerName.NEUCF: pb.RANKER_NEUCF, RankerName.HEURISTIC: pb.RANKER_HEURISTIC}
DEGRADED_REASONS = {
    None: pb.DEGRADED_REASON_UNSPECIFIED,
    DegradedReason.NO_MODEL: pb.DEGRADED_REASON_NO_MODEL,
    DegradedReason.OVERLOADED: pb.DEGRADED_REASON_OVERLOADED,
    DegradedReason.DEADLINE: pb.DEGRADED_REASON_DEADLINE,
    DegradedReason.DEVICE_FAULT: pb.DEGRADED_REASON_DEVICE_FAULT,
    DegradedReason.INVALID_SCORES: pb.DEGRADED_REASON_INVALID_SCORES,
}
DROP_REASONS = {
    DropReason.EXCLUDED: pb.DROP_REASON_EXCLUDED,
    DropReason.UNKNOWN: pb.DROP_REASON_UNKNOWN,
    DropReason.DELETED: pb.DROP_REASON_DELETED,
    DropReason.BLOCKED: pb.DROP_REASON_BLOCKED,
    DropReason.SEEN: pb.DROP_REASON_SEEN,
    DropReason.OWN: pb.DROP_REASON_OWN,
    DropReason.TOO_OLD: pb.DROP_REASON_TOO_OLD,
    DropReason.OUTRANKED: pb.DROP_REASON_OUTRANKED,
}


def read_query(
    request: pb.RankRequest, limits: RankingSettings, deadline: float, reserve: float = MIN_RESERVE
) -> RankQuery:
    """Decodes a request.

    Args:
        request: The public message or its bytes-typed variant.
        limits: The bounds of a request.
        deadline: When the caller stops waiting, on the event loop's clock.
        reserve: Seconds before the deadline at which the fallback answers, if the model has not.

    Raises:
        InvalidRequest: A field is wrong; the error names it.
    """
    limit, explain = request.limit, request.explain
    post_ids = read_ids(request.post_ids)
    candidates = len(post_ids)
    if not request.HasField("user_id"):
        raise InvalidRequest("user_id", "is required; 0 is a valid id but must be set")
    if not candidates:
        raise InvalidRequest("post_ids", "is empty: give 1 or more candidates")
    if candidates > limits.max_candidates:
        raise InvalidRequest(
            "post_ids", f"holds {candidates} candidates: at most {limits.max_candidates} are ranked at once"
        )
    if limit < 0:
        raise InvalidRequest("limit", f"is {limit}: give 0 for all posts, or how many to return")
    policy = CACHE_POLICIES.get(request.cache_policy)
    if policy is None:
        raise InvalidRequest("cache_policy", f"is {request.cache_policy}, which is no CachePolicy")
    excluded = NO_IDS
    if request.exclude_post_ids:
        excluded = read_ids(request.exclude_post_ids)
        if len(excluded) > MAX_EXCLUDED:
            raise InvalidRequest(
                "exclude_post_ids", f"holds {len(excluded)} ids: at most {MAX_EXCLUDED} can be excluded"
            )
    if explain and candidates > MAX_EXPLAINED:
        raise InvalidRequest(
            "explain", f"is set with {candidates} candidates: at most {MAX_EXPLAINED} can be explained"
        )
    # By position: keyword arguments would take as long again.
    user_id, version, exclude_seen = request.user_id, request.model_version, request.exclude_seen
    return RankQuery(
        user_id, post_ids, deadline, limit, policy, version, exclude_seen, excluded, explain, reserve
    )


def read_batch(data: bytes, limits: RankingSettings) -> list[pb.RankRequest]:
    """Decodes a BatchRank into its requests, as bytes-typed variants where possible.

    Raises:
        InvalidRequest: The message is malformed, or holds no request or too many.
    """
    requests = read_elements(data, BatchRankRequest, "requests")
    if not requests:
        raise InvalidRequest("requests", "is empty: give 1 or more requests")
    if len(requests) > limits.max_batch_requests:
        raise InvalidRequest(
            "requests",
            f"holds {len(requests)} requests: at most {limits.max_batch_requests} go into one call",
        )
    return [parse(request, RankRequest, pb.RankRequest) for request in requests]


def check_queries(queries: Sequence[RankQuery], limits: RankingSettings) -> None:
    """Checks the bounds of a batch over all its valid queries.

    Raises:
        InvalidRequest: There are too many candidates, or too many to explain.
    """
    candidates = sum([len(query.post_ids) for query in queries])
    if candidates > limits.max_batch_candidates:
        raise InvalidRequest(
            "requests",
            f"hold {candidates} candidates: at most {limits.max_batch_candidates} are ranked in one call",
        )
    explained = sum([len(query.post_ids) for query in queries if query.explain])
    if explained > MAX_BATCH_EXPLAINED:
        raise InvalidRequest(
            "requests.explain",
            f"is set for {explained} candidates: at most {MAX_BATCH_EXPLAINED} are explained in one call",
        )


def admission_weight(query: RankQuery) -> int:
    """How many candidates the query counts for in admission."""
    return len(query.post_ids) * (EXPLAINED_WEIGHT if query.explain else 1)


def write_ranking(ranking: RankedCandidates) -> bytes:
    """Encodes a RankResponse."""
    pieces = [
        _shared_fields(
            ranking.ranker, ranking.model_version, ranking.cache, ranking.degraded_reason, ranking.arm
        )
    ]
    if len(ranking.post_ids):
        ids, scores = pack(ranking.post_ids), pack(ranking.scores)
        pieces += (POST_IDS.prefix(len(ids)), ids, SCORES.prefix(len(scores)), scores)
    if ranking.dropped:
        pieces += map(_encode_dropped, ranking.dropped, ranking.dropped.values())
    if ranking.terms is not None and len(ranking.post_ids):
        explanations = encode_explanations(ranking.terms)
        prefix = EXPLANATIONS.prefix(len(explanations[0]))
        pieces.append(prefix.join((b"", *explanations)))  # the prefix precedes each
    if ranking.dropped_posts:
        pieces.append(_encode_dropped_posts(ranking.dropped_posts))
    return b"".join(pieces)


def write_results(outcomes: Iterable[RankedCandidates | status_pb2.Status]) -> bytes:
    """Encodes a BatchRankResponse."""
    pieces: list[bytes] = []
    for outcome in outcomes:
        if isinstance(outcome, RankedCandidates):
            response = write_ranking(outcome)
            prefix = RESPONSE.prefix(len(response))
            pieces += (RESULTS.prefix(len(prefix) + len(response)), prefix, response)
        else:
            error = pb.RankResult(error=outcome).SerializeToString()
            pieces += (RESULTS.prefix(len(error)), error)
    return b"".join(pieces)


@lru_cache(1024)
def _encode_dropped(reason: DropReason, count: int) -> bytes:
    """A RankResponse with one drop count; protobuf merges such parts of a nested message."""
    return pb.RankResponse(dropped=pb.DroppedCandidates(**{reason.value: count})).SerializeToString()


def _encode_dropped_posts(dropped: Mapping[int, DropReason]) -> bytes:
    """A RankResponse with the drop reasons of posts."""
    response = pb.RankResponse()
    write_dropped_posts(dropped, response.dropped_posts)
    return response.SerializeToString()


@lru_cache
def _shared_fields(
    ranker: RankerName, model_version: str, cache: CacheStatus, degraded: DegradedReason | None, arm: str
) -> bytes:
    """A RankResponse with the fields that many responses share; cached, as encoding them takes 3 us."""
    return pb.RankResponse(
        ranker=RANKERS[ranker],
        model_version=model_version,
        cache=CACHE_STATUSES[cache],
        degraded_reason=DEGRADED_REASONS[degraded],
        arm=arm,
        dropped=pb.DroppedCandidates(),
    ).SerializeToString()


def write_dropped_posts(
    dropped: Mapping[int, DropReason], field: "RepeatedCompositeFieldContainer[pb.DroppedPost]"
) -> None:
    """Appends the drop reason of each post to a field, in the order of the mapping."""
    for post, reason in dropped.items():
        field.add(post_id=post, reason=DROP_REASONS[reason])
