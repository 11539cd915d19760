"""Decodes GetTimeline requests to queries, every field checked, and encodes pages."""

from typing import Any, cast

from animora_proto.ranking.v1 import ranking_pb2 as pb
from animora_server.errors import InvalidRequest
from animora_server.service.explanations import encode_explanations
from animora_server.service.rank_codec import (
    CACHE_POLICIES,
    CACHE_STATUSES,
    DEGRADED_REASONS,
    EXPLAINED_WEIGHT,
    MAX_EXCLUDED,
    MAX_EXPLAINED,
    RANKERS,
    write_dropped_posts,
)
from animora_server.service.wire_codec import GetTimelineResponse, read_ids, write_array
from animora_server.settings import TimelineSettings
from animora_server.types import MIN_RESERVE, PageResult, TimelineQuery


def read_timeline_query(
    request: pb.GetTimelineRequest,
    settings: TimelineSettings,
    deadline: float,
    reserve: float = MIN_RESERVE,
) -> TimelineQuery:
    """Decodes a request.

    Args:
        request: The public message.
        settings: The default and the largest page size.
        deadline: When the caller stops waiting, on the event loop's clock.
        reserve: Seconds before the deadline at which the fallback answers, if the model has not.

    Raises:
        InvalidRequest: A field is wrong; the error names it.
    """
    if not request.HasField("user_id"):
        raise InvalidRequest("user_id", "is required; 0 is a valid id but must be set")
    if request.page_size < 0:
        raise InvalidRequest(
            "page_size",
            f"is {request.page_size}: give 0 for {settings.page_size} posts, or a number above it",
        )
    policy = CACHE_POLICIES.get(request.cache_policy)
    if policy is None:
        raise InvalidRequest("cache_policy", f"is {request.cache_policy}, which is no CachePolicy")
    for field, ids, maximum in (
        ("exclude_post_ids", request.exclude_post_ids, MAX_EXCLUDED),
        ("explain_post_ids", request.explain_post_ids, MAX_EXPLAINED),
    ):
        if len(ids) > maximum:
            raise InvalidRequest(field, f"holds {len(ids)} ids: at most {maximum} can be given")
    page_size = min(request.page_size or settings.page_size, settings.max_page_size)
    if request.explain and page_size > MAX_EXPLAINED:
        raise InvalidRequest(
            "explain", f"is set with a page of {page_size} posts: at most {MAX_EXPLAINED} can be explained"
        )
    return TimelineQuery(
        user_id=request.user_id,
        page_size=page_size,
        deadline=deadline,
        page_token=request.page_token,
        exclude_post_ids=read_ids(request.exclude_post_ids),
        include_seen=request.include_seen,
        cache_policy=policy,
        explain=request.explain,
        explain_post_ids=read_ids(request.explain_post_ids),
        reserve=reserve,
    )


def admission_weight(query: TimelineQuery) -> int:
    """How many candidates the explanations of the page count for in admission."""
    return (query.page_size * EXPLAINED_WEIGHT if query.explain else 0) + len(query.explain_post_ids)


def write_page(page: PageResult) -> pb.GetTimelineResponse:
    """Encodes a page as the bytes-typed variant of its response."""
    response = GetTimelineResponse(
        next_page_token=page.next_page_token,
        ranker=RANKERS[page.ranker],
        model_version=page.model_version,
        cache=CACHE_STATUSES[page.cache],
        degraded_reason=DEGRADED_REASONS[page.degraded_reason],
        arm=page.arm,
    )
    write_array(response.post_ids, page.post_ids)
    write_array(response.scores, page.scores)
    if page.dropped_posts:
        write_dropped_posts(page.dropped_posts, response.dropped_posts)
    if page.explained is not None:
        explained = page.explained
        messages = encode_explanations(explained.terms, explained.reranking, explained.exploration)
        cast("Any", response.explanations).extend(messages)  # the variant takes bytes
    return response
