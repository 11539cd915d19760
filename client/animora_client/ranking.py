"""What the calls return: enumerations, and the ranking of one request."""

from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, field
from enum import StrEnum
from typing import NamedTuple


class Ranker(StrEnum):
    """What ranked the posts."""

    NEUCF = "neucf"  # the learned model; scores are probabilities
    HEURISTIC = "heuristic"  # popularity and recency; scores are in [0, 1]
    OTHER = "other"  # a value that this client does not know yet


class Health(StrEnum):
    """What a server reports of a service, by grpc.health.v1."""

    SERVING = "serving"
    NOT_SERVING = "not_serving"  # it starts, drains, or lacks something that it needs


class CacheStatus(StrEnum):
    """Where the scores came from."""

    HIT = "hit"
    MISS = "miss"
    BYPASS = "bypass"  # not looked up
    STALE = "stale"  # a timeline past its time to live, which is being rebuilt
    OTHER = "other"  # a value that this client does not know yet


class DegradedReason(StrEnum):
    """Why the heuristic replaced the model."""

    NO_MODEL = "no_model"
    OVERLOADED = "overloaded"
    DEADLINE = "deadline"
    DEVICE_FAULT = "device_fault"
    INVALID_SCORES = "invalid_scores"
    OTHER = "other"  # a value that this client does not know yet


class DropReason(StrEnum):
    """Why a post is not in a response; if several reasons apply, the first in this order."""

    EXCLUDED = "excluded"  # by the request
    UNKNOWN = "unknown"  # not in the catalog
    DELETED = "deleted"
    BLOCKED = "blocked"  # its author has blocked the user or is blocked by them
    SEEN = "seen"  # liked or commented on already
    OWN = "own"  # the user's (timelines)
    TOO_OLD = "too_old"  # outside the feed's window, or beyond the newest posts that are ranked (timelines)
    OUTRANKED = "outranked"  # beyond the limit, or beyond the best posts that a timeline keeps
    OTHER = "other"  # a value that this client does not know yet


class RankedPost(NamedTuple):
    """A post and its score."""

    post_id: int
    score: float


@dataclass(frozen=True, slots=True)
class Dropped:
    """Counts of dropped candidates; each counts once, for the first reason that applies."""

    duplicate: int = 0
    excluded: int = 0
    unknown: int = 0
    deleted: int = 0
    blocked: int = 0
    seen: int = 0

    @property
    def total(self) -> int:
        """All dropped candidates."""
        return sum(astuple(self))


@dataclass(frozen=True, slots=True)
class Ranking:
    """Ranked posts, best first. Iteration yields `RankedPost`s.

    Attributes:
        post_ids: The posts, best first.
        scores: The scores, parallel to post_ids.
        ranker: What ranked the posts.
        model_version: The model that scored the posts; empty for the heuristic.
        cache: Where the scores came from.
        degraded_reason: Set if the heuristic replaced the model; a cold user's ranking is not degraded.
        dropped: Counts of dropped candidates.
        explanations: With `explain`, the terms that add up to each post's logit (or to the heuristic's
            value), parallel to post_ids; else empty.
        dropped_posts: With `explain`, the reason for each distinct dropped candidate; else empty.
        arm: The arm of the server's experiments; empty without, or if the request names a version.
    """

    post_ids: tuple[int, ...]
    scores: tuple[float, ...]
    ranker: Ranker
    model_version: str = ""
    cache: CacheStatus = CacheStatus.BYPASS
    degraded_reason: DegradedReason | None = None
    dropped: Dropped = Dropped()
    explanations: tuple[Mapping[str, float], ...] = ()
    dropped_posts: Mapping[int, DropReason] = field(default_factory=dict)
    arm: str = ""

    @property
    def posts(self) -> tuple[RankedPost, ...]:
        """The posts with their scores; a new tuple on each access."""
        return tuple(self)

    def __iter__(self) -> Iterator[RankedPost]:
        return map(RankedPost, self.post_ids, self.scores)

    def __len__(self) -> int:
        return len(self.post_ids)
