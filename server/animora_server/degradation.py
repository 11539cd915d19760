"""The ladder of degradation: what answers a request for a ranking, one step for each condition.

    model ─▶ cached ─▶ stale ─▶ heuristic ─▶ refusal

A stored answer is used while it is fresh, also on a healthy server. A stale one is used while the next is
built. The heuristic answers where the model has no scores in time. What not even the heuristic can answer is
refused. The tables below decide these steps; docs/operation.md has them as one table.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from animora_server.errors import (
    CallError,
    CatalogUnavailable,
    DeadlineExpired,
    DeadlineUnreachable,
    DeviceFault,
    InvalidScores,
    ModelNotResident,
    ModelUnavailable,
    Overloaded,
    RankedTimelineGone,
    ScoringFailed,
    TooManyRequests,
)
from animora_server.types import CacheStatus, DegradedReason, RankerName

RANK = "Rank, BatchRank"
TIMELINE = "GetTimeline"
EVERY_METHOD = f"{RANK}, {TIMELINE}"


class Step(StrEnum):
    """The steps of the ladder, best first."""

    MODEL = "fresh model"
    CACHED = "cached"
    STALE = "stale"
    HEURISTIC = "heuristic"
    REFUSAL = "refusal"


class Freshness(StrEnum):
    """How fresh a stored ranked timeline is."""

    FRESH = "fresh"
    DUE = "due"
    STALE = "stale"
    EXPIRED = "expired"  # only page tokens still lead to it


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """What answers where scores or a ranked timeline were looked up.

    Attributes:
        step: MODEL computes another answer; CACHED and STALE serve the stored one.
        cache: The reply's `cache`.
        when: The condition, for the docs.
        refresh: Why the next timeline is built in the background, a reason of RefreshCounter; empty for none.
    """

    step: Step
    cache: CacheStatus
    when: str
    refresh: str = ""


@dataclass(frozen=True, slots=True)
class Fallback:
    """The heuristic's answer to a failure of the model.

    Attributes:
        reason: The reply's `degraded_reason`.
        when: The condition, for the docs.
        model_needs_time: Whether the model could answer with more time, so that a timeline is built in the
            background.
    """

    reason: DegradedReason
    when: str
    model_needs_time: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """The status of a request that cannot be answered.

    Attributes:
        code: The name of the gRPC code.
        reason: The stable reason of ErrorInfo.
        when: The condition, for the docs.
        methods: The methods that it concerns.
    """

    code: str
    reason: str
    when: str
    methods: str = EVERY_METHOD


SCORES: Mapping[CacheStatus, StoredAnswer] = {
    answer.cache: answer
    for answer in (
        StoredAnswer(Step.MODEL, CacheStatus.MISS, "no stored scores, or Redis does not answer in time"),
        StoredAnswer(Step.MODEL, CacheStatus.BYPASS, "`cache_policy` REFRESH or BYPASS, or no Redis"),
        StoredAnswer(Step.CACHED, CacheStatus.HIT, "scores of the same version and content are stored"),
    )
}

# Where the policy reads nothing.
UNREAD_TIMELINE = StoredAnswer(Step.MODEL, CacheStatus.BYPASS, "`cache_policy` REFRESH or BYPASS")
MISSING_TIMELINE = StoredAnswer(
    Step.MODEL, CacheStatus.MISS, "no stored timeline, or one by another version than the active one"
)
STORED_TIMELINES: Mapping[Freshness, StoredAnswer] = {
    Freshness.FRESH: StoredAnswer(Step.CACHED, CacheStatus.HIT, "the stored timeline is fresh"),
    Freshness.DUE: StoredAnswer(
        Step.CACHED, CacheStatus.HIT, "the stored timeline is fresh, but not for long", refresh="early"
    ),
    Freshness.STALE: StoredAnswer(
        Step.STALE, CacheStatus.STALE, "within `timeline.stale_ttl` after it was fresh", refresh="stale"
    ),
    Freshness.EXPIRED: StoredAnswer(Step.MODEL, CacheStatus.MISS, "the stored timeline is older"),
}

FALLBACKS: Mapping[type[ScoringFailed], Fallback] = {
    ModelUnavailable: Fallback(DegradedReason.NO_MODEL, "no model is loaded"),
    Overloaded: Fallback(DegradedReason.OVERLOADED, "the device's queue is full", model_needs_time=True),
    DeadlineUnreachable: Fallback(
        DegradedReason.DEADLINE,
        "the model's scores cannot be there in time, or are not",
        model_needs_time=True,
    ),
    DeviceFault: Fallback(DegradedReason.DEVICE_FAULT, "the device fails"),
    InvalidScores: Fallback(
        DegradedReason.INVALID_SCORES, "a score is not finite, or the network raises an error"
    ),
}

REFUSALS: Mapping[type[CallError], Refusal] = {
    TooManyRequests: Refusal(
        "RESOURCE_EXHAUSTED", "TOO_MUCH_IN_FLIGHT", "too many calls or candidates are in flight"
    ),
    DeadlineExpired: Refusal(
        "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", "there is no time left even for the heuristic"
    ),
    ModelNotResident: Refusal(
        "FAILED_PRECONDITION", "MODEL_NOT_RESIDENT", "the version that the request names is not loaded", RANK
    ),
    RankedTimelineGone: Refusal(
        "FAILED_PRECONDITION", "SNAPSHOT_GONE", "the timeline of the page token is lost or expired", TIMELINE
    ),
    CatalogUnavailable: Refusal(
        "UNAVAILABLE",
        "CATALOG_UNAVAILABLE",
        "the catalog is not loaded, or its blocks are older than `catalog.max_block_age`",
    ),
}


def fallback_for(failure: ScoringFailed) -> Fallback:
    """The fallback for a failure of the model."""
    return next(fallback for kind, fallback in FALLBACKS.items() if isinstance(failure, kind))


def degraded_reason(failure: ScoringFailed) -> DegradedReason:
    """The reason that a fallback reports for a failure of the model."""
    return fallback_for(failure).reason


def ladder() -> Iterator[tuple[Step, str, str, str, str]]:
    """The rows of the documented table, best step first: step, methods, condition, reply, metric."""
    rows = [*_stored_rows(), *_heuristic_rows(), *_refusal_rows()]
    for step in Step:
        yield from (row for row in rows if row[0] is step)


def _stored_rows() -> Iterator[tuple[Step, str, str, str, str]]:
    timelines = (MISSING_TIMELINE, UNREAD_TIMELINE, *STORED_TIMELINES.values())
    for methods, metric, answers in (
        (RANK, "animora_rank_cache_total{status", SCORES.values()),
        (TIMELINE, "animora_timeline_pages_total{cache", timelines),
    ):
        for answer in answers:
            reply = f"`ranker` {RankerName.NEUCF.name}, `cache` {answer.cache.name}"
            counted = [f'`{metric}="{answer.cache}"}}`']
            if answer.refresh:
                counted.append(f'`animora_timeline_refreshes_total{{why="{answer.refresh}"}}`')
            yield answer.step, methods, answer.when, reply, ", ".join(counted)


def _heuristic_rows() -> Iterator[tuple[Step, str, str, str, str]]:
    reply = f"`ranker` {RankerName.HEURISTIC.name}"
    known = "the model does not know the user, or no model store is configured"
    yield Step.HEURISTIC, EVERY_METHOD, known, reply, '`animora_requests_total{ranker="heuristic"}`'
    for fallback in FALLBACKS.values():
        metric = f'`animora_degraded_total{{reason="{fallback.reason}"}}`'
        named = f"{reply}, `degraded_reason` {fallback.reason.name}"
        yield Step.HEURISTIC, EVERY_METHOD, fallback.when, named, metric


def _refusal_rows() -> Iterator[tuple[Step, str, str, str, str]]:
    for refusal in REFUSALS.values():
        reply = f"{refusal.code}, reason {refusal.reason}"
        metric = f'`grpc_server_handled_total{{grpc_code="{refusal.code}"}}`'
        yield Step.REFUSAL, refusal.methods, refusal.when, reply, metric
