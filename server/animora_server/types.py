"""The values that flow through a request: query in, ranking out, arrays in between."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
HalfArray = npt.NDArray[np.float16]
FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


class CachePolicy(StrEnum):
    """How a request uses the cache."""

    DEFAULT = "default"
    REFRESH = "refresh"
    BYPASS = "bypass"

    @property
    def reads(self) -> bool:
        """Whether a stored value may answer."""
        return self is CachePolicy.DEFAULT

    @property
    def writes(self) -> bool:
        """Whether a computed value is stored."""
        return self is not CachePolicy.BYPASS


class CacheStatus(StrEnum):
    """Where scores came from."""

    HIT = "hit"
    MISS = "miss"
    BYPASS = "bypass"


class RankerName(StrEnum):
    """What ordered the posts."""

    NEUCF = "neucf"
    HEURISTIC = "heuristic"


class DegradedReason(StrEnum):
    """Why the heuristic stood in for the model."""

    NO_MODEL = "no_model"
    OVERLOADED = "overloaded"
    DEADLINE = "deadline"
    DEVICE_FAULT = "device_fault"
    INVALID_SCORES = "invalid_scores"


class DropReason(StrEnum):
    """Why a candidate is not in the order; the first that applies, in this order, counts."""

    DUPLICATE = "duplicate"
    EXCLUDED = "excluded"
    UNKNOWN = "unknown"
    DELETED = "deleted"
    BLOCKED = "blocked"
    SEEN = "seen"


@dataclass(frozen=True, slots=True)
class RankQuery:
    """One user and the posts to order, validated.

    Attributes:
        user_id: Any signed 64-bit integer.
        post_ids: int64 (n), as given: duplicates and unknown ids included.
        limit: Return the best so many; 0 for all.
        deadline: When the caller stops waiting, on the event loop's clock, in seconds.
        cache_policy: How to use the cache.
        model_version: Empty for the active one.
        exclude_seen: Drop what the user has liked or commented on.
        exclude_post_ids: int64 (k), dropped as well.
        explain: Return the terms of each score.
    """

    user_id: int
    post_ids: IntArray
    deadline: float
    limit: int = 0
    cache_policy: CachePolicy = CachePolicy.DEFAULT
    model_version: str = ""
    exclude_seen: bool = False
    exclude_post_ids: IntArray = field(default_factory=lambda: np.empty(0, np.int64))
    explain: bool = False


@dataclass(frozen=True, slots=True)
class Terms:
    """The summands of scores: values float32 (n, k), a column a name."""

    names: tuple[str, ...]
    values: FloatArray


@dataclass(frozen=True, slots=True)
class Ranking:
    """Posts in order, best first.

    Attributes:
        post_ids: int64 (n).
        scores: float32 (n), probabilities from NeuCF, the heuristic's value from the heuristic.
        ranker: What ordered them.
        model_version: The model's, empty for the heuristic.
        cache: Where the scores came from.
        degraded_reason: Set when the heuristic stood in for the model.
        dropped: How many candidates are missing, by reason; zeros may be absent.
        terms: The terms of each score, rows parallel to post_ids, where asked for.
    """

    post_ids: IntArray
    scores: FloatArray
    ranker: RankerName
    model_version: str = ""
    cache: CacheStatus = CacheStatus.BYPASS
    degraded_reason: DegradedReason | None = None
    dropped: Mapping[DropReason, int] = field(default_factory=dict)
    terms: Terms | None = None
