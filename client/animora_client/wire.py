"""Converts requests to protobuf messages, and messages to rankings and pages."""

from collections.abc import Iterable, Mapping

from grpc import StatusCode

from animora_client.errors import Internal, RankingError
from animora_client.ranking import CacheStatus, DegradedReason, Dropped, DropReason, Ranker, Ranking
from animora_client.request import CachePolicy, RankRequest, TimelineRequest
from animora_client.status import read_status
from animora_client.timeline import Explanation, TimelinePage
from animora_proto.ranking.v1 import ranking_pb2

SERVICE: str = ranking_pb2.DESCRIPTOR.services_by_name["RankingService"].full_name

_CACHE_POLICIES = {
    CachePolicy.DEFAULT: ranking_pb2.CACHE_POLICY_DEFAULT,
    CachePolicy.REFRESH: ranking_pb2.CACHE_POLICY_REFRESH,
    CachePolicy.BYPASS: ranking_pb2.CACHE_POLICY_BYPASS,
}
# Unknown values, of a newer server, become OTHER.
RANKERS: Mapping[int, Ranker] = {
    ranking_pb2.RANKER_NEUCF: Ranker.NEUCF,
    ranking_pb2.RANKER_HEURISTIC: Ranker.HEURISTIC,
}
CACHE_STATUSES: Mapping[int, CacheStatus] = {
    ranking_pb2.CACHE_STATUS_HIT: CacheStatus.HIT,
    ranking_pb2.CACHE_STATUS_MISS: CacheStatus.MISS,
    ranking_pb2.CACHE_STATUS_BYPASS: CacheStatus.BYPASS,
    ranking_pb2.CACHE_STATUS_STALE: CacheStatus.STALE,
}
DEGRADED_REASONS: Mapping[int, DegradedReason | None] = {
    ranking_pb2.DEGRADED_REASON_UNSPECIFIED: None,
    ranking_pb2.DEGRADED_REASON_NO_MODEL: DegradedReason.NO_MODEL,
    ranking_pb2.DEGRADED_REASON_OVERLOADED: DegradedReason.OVERLOADED,
    ranking_pb2.DEGRADED_REASON_DEADLINE: DegradedReason.DEADLINE,
    ranking_pb2.DEGRADED_REASON_DEVICE_FAULT: DegradedReason.DEVICE_FAULT,
    ranking_pb2.DEGRADED_REASON_INVALID_SCORES: DegradedReason.INVALID_SCORES,
}

_DROP_REASONS: Mapping[int, DropReason] = {
    ranking_pb2.DROP_REASON_EXCLUDED: DropReason.EXCLUDED,
    ranking_pb2.DROP_REASON_UNKNOWN: DropReason.UNKNOWN,
    ranking_pb2.DROP_REASON_DELETED: DropReason.DELETED,
    ranking_pb2.DROP_REASON_BLOCKED: DropReason.BLOCKED,
    ranking_pb2.DROP_REASON_SEEN: DropReason.SEEN,
    ranking_pb2.DROP_REASON_OWN: DropReason.OWN,
    ranking_pb2.DROP_REASON_TOO_OLD: DropReason.TOO_OLD,
    ranking_pb2.DROP_REASON_OUTRANKED: DropReason.OUTRANKED,
}


def rank_message(request: RankRequest) -> ranking_pb2.RankRequest:
    """The message for one request.

    Raises:
        ValueError: A number does not fit its field.
        TypeError: A value is not a number.
    """
    return ranking_pb2.RankRequest(
        user_id=request.user_id,
        post_ids=request.post_ids,
        limit=request.limit,
        cache_policy=_CACHE_POLICIES[request.cache_policy],
        model_version=request.model_version,
        exclude_seen=request.exclude_seen,
        exclude_post_ids=request.exclude_post_ids,
        explain=request.explain,
    )


def batch_message(requests: Iterable[RankRequest]) -> ranking_pb2.BatchRankRequest:
    """The message for a batch of requests; raises as `rank_message`."""
    return ranking_pb2.BatchRankRequest(requests=map(rank_message, requests))


def timeline_message(request: TimelineRequest) -> ranking_pb2.GetTimelineRequest:
    """The message for one page; raises as `rank_message`."""
    return ranking_pb2.GetTimelineRequest(
        user_id=request.user_id,
        page_size=request.page_size,
        page_token=request.page_token,
        exclude_post_ids=request.exclude_post_ids,
        include_seen=request.include_seen,
        cache_policy=_CACHE_POLICIES[request.cache_policy],
        explain=request.explain,
        explain_post_ids=request.explain_post_ids,
    )


def read_ranking(message: ranking_pb2.RankResponse) -> Ranking:
    """The ranking in a response.

    Raises:
        Internal: Posts and scores, or explanations, are not parallel.
    """
    _require_parallel(message)
    dropped = message.dropped
    return Ranking(
        post_ids=tuple(message.post_ids),
        scores=tuple(message.scores),
        ranker=RANKERS.get(message.ranker, Ranker.OTHER),
        model_version=message.model_version,
        cache=CACHE_STATUSES.get(message.cache, CacheStatus.OTHER),
        degraded_reason=DEGRADED_REASONS.get(message.degraded_reason, DegradedReason.OTHER),
        dropped=Dropped(
            duplicate=dropped.duplicate,
            excluded=dropped.excluded,
            unknown=dropped.unknown,
            deleted=dropped.deleted,
            blocked=dropped.blocked,
            seen=dropped.seen,
        ),
        explanations=tuple(_terms(explanation.terms) for explanation in message.explanations),
        dropped_posts=_dropped_posts(message.dropped_posts),
        arm=message.arm,
    )


def read_page(message: ranking_pb2.GetTimelineResponse) -> TimelinePage:
    """The page in a response.

    Raises:
        Internal: Posts and scores, or explanations, are not parallel.
    """
    _require_parallel(message)
    return TimelinePage(
        post_ids=tuple(message.post_ids),
        scores=tuple(message.scores),
        ranker=RANKERS.get(message.ranker, Ranker.OTHER),
        model_version=message.model_version,
        cache=CACHE_STATUSES.get(message.cache, CacheStatus.OTHER),
        degraded_reason=DEGRADED_REASONS.get(message.degraded_reason, DegradedReason.OTHER),
        next_page_token=message.next_page_token,
        explanations=tuple(
            Explanation(
                terms=_terms(explanation.terms),
                reranking_terms=_terms(explanation.reranking_terms),
                exploration=explanation.exploration,
            )
            for explanation in message.explanations
        ),
        dropped_posts=_dropped_posts(message.dropped_posts),
        arm=message.arm,
    )


def read_batch(message: ranking_pb2.BatchRankResponse, count: int) -> tuple[Ranking | RankingError, ...]:
    """The outcome of each of `count` requests.

    Raises:
        Internal: The number of outcomes differs from `count`.
    """
    if len(message.results) != count:
        raise Internal(
            f"the reply has {len(message.results)} results for {count} requests", StatusCode.INTERNAL
        )
    return tuple(map(_read_result, message.results))


def _read_result(result: ranking_pb2.RankResult) -> Ranking | RankingError:
    match result.WhichOneof("outcome"):
        case "response":
            try:
                return read_ranking(result.response)
            except Internal as error:
                return error
        case "error":
            return read_status(result.error)
        case _:
            return Internal("the reply has a result with neither a ranking nor an error", StatusCode.INTERNAL)


def _require_parallel(message: ranking_pb2.RankResponse | ranking_pb2.GetTimelineResponse) -> None:
    count = len(message.post_ids)
    if len(message.scores) != count or len(message.explanations) not in (0, count):
        raise Internal(
            f"the reply has {count} posts, {len(message.scores)} scores and "
            f"{len(message.explanations)} explanations",
            StatusCode.INTERNAL,
        )


def _terms(terms: Iterable[ranking_pb2.Term]) -> dict[str, float]:
    return {term.name: term.value for term in terms}


def _dropped_posts(dropped: Iterable[ranking_pb2.DroppedPost]) -> dict[int, DropReason]:
    return {post.post_id: _DROP_REASONS.get(post.reason, DropReason.OTHER) for post in dropped}
