"""What a caller gets: posts in order, and what ordered them."""

from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, field
from enum import StrEnum
from typing import NamedTuple


class Ranker(StrEnum):
    """What ordered the posts."""

    NEUCF = "neucf"  # the learned model; scores are probabilities
    HEURISTIC = "heuristic"  # popularity and recency; scores are in [0, 1]
    OTHER = "other"  # something that this client is too old to know


class CacheStatus(StrEnum):
    """Where the scores came from."""

    HIT = "hit"
    MISS = "miss"
    BYPASS = "bypass"  # not looked for
    STALE = "stale"  # a timeline that was due for renewal; it is being ranked again
    OTHER = "other"  # something that this client is too old to know


class DegradedReason(StrEnum):
    """Why the heuristic stood in for the model."""

    NO_MODEL = "no_model"
    OVERLOADED = "overloaded"
    DEADLINE = "deadline"
    DEVICE_FAULT = "device_fault"
    INVALID_SCORES = "invalid_scores"
    OTHER = "other"  # something that this client is too old to know


class DropReason(StrEnum):
    """Why a post is not in an answer; where several apply, the first in this order."""

    EXCLUDED = "excluded"  # by the request
    UNKNOWN = "unknown"  # not in the catalog
    DELETED = "deleted"
    BLOCKED = "blocked"  # its author has blocked the user or is blocked by them
    SEEN = "seen"  # liked or commented on already
    OWN = "own"  # the user's (timelines)
    TOO_OLD = "too_old"  # for the feed's window, or behind as many newer posts as are ranked (timelines)
    OUTRANKED = "outranked"  # behind the limit, or behind the best that a timeline keeps
    OTHER = "other"  # something that this client is too old to know


class RankedPost(NamedTuple):
    """A post and its score."""

    post_id: int
    score: float


@dataclass(frozen=True, slots=True)
class Dropped:
    """How many candidates are not in the order, each counted once, for the first reason that applied."""

    duplicate: int = 0
    excluded: int = 0
    unknown: int = 0
    deleted: int = 0
    blocked: int = 0
    seen: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return sum(astuple(self))


@dataclass(frozen=True, slots=True)
class Ranking:
    """Posts in order, best first. Iterating gives `RankedPost`s.

    Attributes:
        post_ids: The posts.
        scores: Their scores, parallel to post_ids.
        ranker: What ordered them.
        model_version: The model that scored them; empty for the heuristic.
        cache: Where the scores came from.
        degraded_reason: Set when the heuristic stood in for the model; a cold user's is not degraded.
        dropped: The candidates that are missing.
        explanations: With `explain`, the terms that add up to each post's logit (or to the heuristic's
            value), parallel to post_ids; else empty.
        dropped_posts: With `explain`, why each distinct candidate that is missing is; else empty.
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

    @property
    def posts(self) -> tuple[RankedPost, ...]:
        """The posts with their scores; made anew on each access."""
        return tuple(self)

    def __iter__(self) -> Iterator[RankedPost]:
        return map(RankedPost, self.post_ids, self.scores)

    def __len__(self) -> int:
        return len(self.post_ids)
