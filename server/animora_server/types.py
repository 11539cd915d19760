"""The values that flow through a request: query in, ranking out, arrays in between."""

from collections.abc import Mapping
from dataclasses import field
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from animora_server.deadlines import LEAST_RESERVE
from animora_server.fast_dataclass import fast_dataclass

IntArray = npt.NDArray[np.int64]
HalfArray = npt.NDArray[np.float16]
FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

CLOCK_SKEW = 60.0  # seconds by which the clocks of several hosts may differ


class Name(StrEnum):
    """One of a few words, looked up at the pace of a string: an enumeration hashes in Python."""

    __hash__ = str.__hash__


class CachePolicy(Name):
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


class CacheStatus(Name):
    """Where scores came from."""

    HIT = "hit"
    MISS = "miss"
    BYPASS = "bypass"
    STALE = "stale"


class RankerName(Name):
    """What ordered the posts."""

    NEUCF = "neucf"
    HEURISTIC = "heuristic"


class DegradedReason(Name):
    """Why the heuristic stood in for the model."""

    NO_MODEL = "no_model"
    OVERLOADED = "overloaded"
    DEADLINE = "deadline"
    DEVICE_FAULT = "device_fault"
    INVALID_SCORES = "invalid_scores"


class DropReason(Name):
    """Why a post is not in an answer; the first that applies, in this order, counts."""

    DUPLICATE = "duplicate"
    EXCLUDED = "excluded"
    UNKNOWN = "unknown"
    DELETED = "deleted"
    BLOCKED = "blocked"
    SEEN = "seen"
    OWN = "own"
    TOO_OLD = "too_old"
    OUTRANKED = "outranked"


@fast_dataclass
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
        reserve: Seconds of the time until the deadline that are kept for an answer without the model.
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
    reserve: float = LEAST_RESERVE

    @property
    def score_by(self) -> float:
        """When the model's scores must be there, on the event loop's clock."""
        return self.deadline - self.reserve


@fast_dataclass
class Terms:
    """The summands of scores: values float32 (n, k), a column a name."""

    names: tuple[str, ...]
    values: FloatArray

    def where(self, kept: BoolArray) -> "Terms":
        """The rows that are kept: bool (n)."""
        return Terms(self.names, self.values[kept])


@fast_dataclass
class RankedCandidates:
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
        dropped_posts: Why each distinct candidate is missing, where asked for, by ascending id.
    """

    post_ids: IntArray
    scores: FloatArray
    ranker: RankerName
    model_version: str = ""
    cache: CacheStatus = CacheStatus.BYPASS
    degraded_reason: DegradedReason | None = None
    dropped: Mapping[DropReason, int] = field(default_factory=dict)
    terms: Terms | None = None
    dropped_posts: Mapping[int, DropReason] = field(default_factory=dict)


@fast_dataclass
class TimelineQuery:
    """Whose feed, and which page of it, validated.

    Attributes:
        user_id: Any signed 64-bit integer.
        page_size: Posts on the page at most, above 0.
        deadline: When the caller stops waiting, on the event loop's clock, in seconds.
        page_token: As given out with the page before; empty for the first page.
        exclude_post_ids: int64 (k), left out.
        include_seen: Keep posts that the user has liked or commented on.
        cache_policy: How to use the cache; matters for the first page.
        explain: Return the terms of each score.
        explain_post_ids: int64 (j), posts to say of why they are not in the timeline.
        reserve: As of RankQuery.
    """

    user_id: int
    page_size: int
    deadline: float
    page_token: str = ""
    exclude_post_ids: IntArray = field(default_factory=lambda: np.empty(0, np.int64))
    include_seen: bool = False
    cache_policy: CachePolicy = CachePolicy.DEFAULT
    explain: bool = False
    explain_post_ids: IntArray = field(default_factory=lambda: np.empty(0, np.int64))
    reserve: float = LEAST_RESERVE

    @property
    def score_by(self) -> float:
        """When the model's scores must be there, on the event loop's clock."""
        return self.deadline - self.reserve


@fast_dataclass
class RankedTimeline:
    """One user's ranked list, never changed once made; page tokens pin it.

    It holds what was best when it was made, whoever has blocked whom: what must not be shown is sorted out
    whenever a page is cut from it.

    Attributes:
        timeline_id: 16 bytes. Drawn at random, or the generation's where the list was precomputed.
        post_ids: int64 (n), distinct, in order.
        scores: float32 (n), what ordered them, in the form that callers see.
        ranker: What ordered them.
        model_version: The model's, empty for the heuristic.
        made_at: Unix seconds.
        fresh_until: Unix seconds: made_at and the time to live, `ttl` (jittered) or `precomputed_ttl`.
        read_at: `CatalogSnapshot.read_at` of the catalog that it was made from: posts that came later are
            not among its candidates.
        cost: Seconds that making it took, 0 where unknown.
        degraded_reason: Set when the heuristic stood in for the model; such a list is never anyone's latest.
    """

    timeline_id: bytes
    post_ids: IntArray
    scores: FloatArray
    ranker: RankerName
    model_version: str
    made_at: float
    fresh_until: float
    read_at: float
    cost: float = 0.0
    degraded_reason: DegradedReason | None = None

    def is_from_the_future(self, now: float) -> bool:
        """Whether it was made by a clock that was ahead of now (Unix seconds) by more than clocks differ.

        It would stay fresh for as long as that clock was ahead, and may be empty, as all posts were too old.
        """
        return self.made_at - now > CLOCK_SKEW


@fast_dataclass
class Generation:
    """Timelines of many users, precomputed together; what a resume needs to go on as if never stopped.

    Attributes:
        generation_id: 16 bytes, the `timeline_id` of every list in it.
        made_at: Unix seconds; ages are counted from here, in every shard and after every resume.
        read_at: `CatalogSnapshot.read_at` of the catalog that its first shard began with; a list of a shard
            that read before has the time of that reading.
        model_version: The model that ranks for the users whom it knows; empty for none.
        catalog_digest: Of the posts, interactions and blocks at the start.
        settings_digest: Of the settings that shape a list.
        shards: How many parts the users are split into.
    """

    generation_id: bytes
    made_at: float
    read_at: float
    model_version: str
    catalog_digest: str
    settings_digest: str
    shards: int


@fast_dataclass
class GenerationPosts:
    """The posts that all lists of a generation were ranked from.

    Attributes:
        generation_id: 16 bytes.
        post_ids: int64 (k), ascending: the posts that were candidates in every run that made lists for it.
    """

    generation_id: bytes
    post_ids: IntArray


@fast_dataclass
class PageTerms:
    """What the scores of a page's posts are made of, rows parallel to its posts.

    Attributes:
        terms: They add up to the logit, or to the heuristic's value.
        reranking: They add up to the score; None where timelines are not re-ranked.
        exploration: bool (n), places kept for posts with few interactions.
    """

    terms: Terms
    reranking: Terms | None
    exploration: BoolArray

    def where(self, kept: BoolArray) -> "PageTerms":
        """The terms of those posts that are kept: bool (n)."""
        reranking = self.reranking.where(kept) if self.reranking else None
        return PageTerms(self.terms.where(kept), reranking, self.exploration[kept])


@fast_dataclass
class PageResult:
    """Posts in order, best first.

    Attributes:
        post_ids: int64 (n).
        scores: float32 (n).
        next_page_token: Empty on the last page.
        ranker: What ordered them.
        model_version: The model's, empty for the heuristic.
        cache: Where the list came from.
        degraded_reason: Set when the heuristic stood in for the model.
        explained: What the scores are made of, where asked for and the list's model is still resident.
        dropped_posts: Why each post asked about is not in the timeline, by ascending id.
    """

    post_ids: IntArray
    scores: FloatArray
    next_page_token: str
    ranker: RankerName
    model_version: str
    cache: CacheStatus
    degraded_reason: DegradedReason | None = None
    explained: PageTerms | None = None
    dropped_posts: Mapping[int, DropReason] = field(default_factory=dict)
