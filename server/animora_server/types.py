"""The values of a request: queries, rankings, timelines, and the array types between them."""

from collections.abc import Mapping
from dataclasses import field

import numpy as np
import numpy.typing as npt

from animora_server.fast_dataclass import FastStrEnum, fast_dataclass

IntArray = npt.NDArray[np.int64]
HalfArray = npt.NDArray[np.float16]
FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
SmallArray = npt.NDArray[np.int8]

# The reserve: how many seconds of a call's time are kept for the fallback.
MIN_RESERVE = 0.004  # for the heuristic, and for sending the response
RESERVE_SHARE = 0.2
MAX_RESERVE = 0.1
CLOCK_SKEW = 60.0  # seconds by which the clocks of several hosts may differ


class CachePolicy(FastStrEnum):
    """How a request uses the cache of scores, or the stored timelines."""

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


class CacheStatus(FastStrEnum):
    """Where scores, or a timeline, came from."""

    HIT = "hit"
    MISS = "miss"
    BYPASS = "bypass"
    STALE = "stale"


class RankerName(FastStrEnum):
    """Which ranker ordered the posts."""

    NEUCF = "neucf"
    HEURISTIC = "heuristic"


class DegradedReason(FastStrEnum):
    """Why the heuristic answered as the fallback of the model."""

    NO_MODEL = "no_model"
    OVERLOADED = "overloaded"
    DEADLINE = "deadline"
    DEVICE_FAULT = "device_fault"
    INVALID_SCORES = "invalid_scores"


class DropReason(FastStrEnum):
    """Why a post is not in a result. The first reason that applies counts, in this order."""

    DUPLICATE = "duplicate"
    EXCLUDED = "excluded"
    UNKNOWN = "unknown"
    DELETED = "deleted"
    BLOCKED = "blocked"
    SEEN = "seen"
    OWN = "own"
    TOO_OLD = "too_old"
    OUTRANKED = "outranked"


def reserve(timeout: float) -> float:
    """Seconds before a call's deadline at which the fallback answers, if the model has not.

    After a stall of the model many calls fall back at once, and their responses are sent in sequence. And the
    caller's clock started earlier than the server's, by the travel time of the request.

    Args:
        timeout: Seconds that the call may take.
    """
    return min(max(RESERVE_SHARE * timeout, MIN_RESERVE), MAX_RESERVE)


@fast_dataclass
class RankQuery:
    """A validated request to rank candidates for a user.

    Attributes:
        user_id: Any signed 64-bit integer.
        post_ids: int64 (n), the candidates as requested, duplicates and unknown ids included.
        limit: How many posts to return; 0 for all.
        deadline: When the caller stops waiting, on the event loop's clock, in seconds.
        cache_policy: How to use the cache.
        model_version: The version that ranks; empty for the active one.
        exclude_seen: Whether to drop posts that the user has liked or commented on.
        exclude_post_ids: int64 (k), candidates to drop.
        explain: Whether to return explain terms and drop reasons.
        reserve: Seconds before the deadline at which the fallback answers, if the model has not.
        arm: The arm that serves the query, as the ranker sets it; empty without experiments, and where the
            caller names a version.
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
    reserve: float = MIN_RESERVE
    arm: str = ""

    @property
    def score_by(self) -> float:
        """When the model's scores must be there, on the event loop's clock: the deadline less the reserve."""
        return self.deadline - self.reserve

    def in_arm(self, arm: str, model_version: str) -> "RankQuery":
        """The query as an arm's version serves it; `dataclasses.replace` would take ten times as long."""
        return RankQuery(
            self.user_id,
            self.post_ids,
            self.deadline,
            self.limit,
            self.cache_policy,
            model_version,
            self.exclude_seen,
            self.exclude_post_ids,
            self.explain,
            self.reserve,
            arm,
        )


@fast_dataclass
class Terms:
    """Explain terms: the summands of scores.

    Attributes:
        names: The names of the terms (k).
        values: float32 (n, k), a row a post.
    """

    names: tuple[str, ...]
    values: FloatArray

    def where(self, kept: BoolArray) -> "Terms":
        """The terms of the posts selected by bool (n)."""
        return Terms(self.names, self.values[kept])


@fast_dataclass
class RankedCandidates:
    """A ranking: posts in order, best first.

    Attributes:
        post_ids: int64 (n).
        scores: float32 (n), probabilities of NeuCF, or values of the heuristic.
        ranker: Which ranker ordered the posts.
        model_version: The version of the model; empty for the heuristic.
        cache: Where the scores came from.
        degraded_reason: Set when the heuristic answered as the fallback.
        dropped: How many candidates were dropped, by reason; zeros may be absent.
        arm: As in RankQuery.
        terms: The explain terms, a row a post; set with `explain`.
        dropped_posts: The drop reason of each distinct candidate that is not ranked, by ascending id; set
            with `explain`.
    """

    post_ids: IntArray
    scores: FloatArray
    ranker: RankerName
    model_version: str = ""
    cache: CacheStatus = CacheStatus.BYPASS
    degraded_reason: DegradedReason | None = None
    dropped: Mapping[DropReason, int] = field(default_factory=dict)
    arm: str = ""
    terms: Terms | None = None
    dropped_posts: Mapping[int, DropReason] = field(default_factory=dict)


@fast_dataclass
class TimelineQuery:
    """A validated request for a page of a user's timeline.

    Attributes:
        user_id: Any signed 64-bit integer.
        page_size: The most posts of the page, above 0.
        deadline: When the caller stops waiting, on the event loop's clock, in seconds.
        page_token: The token of the page before; empty for the first page.
        exclude_post_ids: int64 (k), posts to leave out.
        include_seen: Whether to keep posts that the user has liked or commented on.
        cache_policy: How to use stored timelines; used for the first page alone.
        explain: Whether to return explain terms.
        explain_post_ids: int64 (j), posts whose drop reasons to return.
        reserve: As in RankQuery.
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
    reserve: float = MIN_RESERVE

    @property
    def score_by(self) -> float:
        """When the model's scores must be there, on the event loop's clock: the deadline less the reserve."""
        return self.deadline - self.reserve


@fast_dataclass
class RankedTimeline:
    """One user's ranked list of posts; immutable, and referenced by page tokens.

    It holds the best posts at the time of its build, regardless of later blocks and deletions: visibility is
    checked when a page is cut.

    Attributes:
        timeline_id: The id, 16 bytes: random, or that of the generation where it was precomputed.
        post_ids: int64 (n), distinct, best first.
        scores: float32 (n), the scores as callers see them.
        ranker: Which ranker ordered the posts.
        model_version: The version of the model; empty for the heuristic.
        made_at: When it was built, Unix time in seconds.
        fresh_until: When it ceases to be fresh, Unix time in seconds: `made_at` plus `ttl` (jittered) or
            `precomputed_ttl`.
        read_at: `CatalogSnapshot.read_at` of the catalog that it was built from; later posts are not among
            its candidates.
        cost: Seconds that the build took; 0 where unknown.
        degraded_reason: Set when the heuristic answered as the fallback; such a timeline is never stored as
            the latest of its user.
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
        """Whether the clock of the host that built it was ahead of `now` (Unix seconds) beyond CLOCK_SKEW.

        Such a timeline would be fresh for too long, and may be empty, as all posts seemed too old.
        """
        return self.made_at - now > CLOCK_SKEW


@fast_dataclass
class Generation:
    """The record of a generation of precomputed timelines: what a resumed run needs.

    Attributes:
        generation_id: 16 bytes, the `timeline_id` of every timeline of the generation.
        made_at: Unix time in seconds; the ages of posts count from here, in every shard and after a resume.
        read_at: `CatalogSnapshot.read_at` of the catalog of the first shard; a timeline of a shard that read
            its catalog earlier has that earlier time.
        model_version: The version that ranks for the users that it knows; empty for none.
        catalog_digest: A digest of the posts, interactions and blocks at the start.
        settings_digest: A digest of the settings that shape timelines.
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
    """The posts that all timelines of a generation were ranked from.

    Attributes:
        generation_id: 16 bytes.
        post_ids: int64 (k), ascending: the posts that were candidates in every run of the generation.
    """

    generation_id: bytes
    post_ids: IntArray


@fast_dataclass
class PageTerms:
    """The explain terms of a page, a row a post.

    Attributes:
        terms: The ranker's terms, which add up to the logit or to the heuristic's value.
        reranking: The terms of re-ranking, which add up to the score; None without re-ranking.
        exploration: bool (n), whether the post holds a place reserved for posts with few interactions.
    """

    terms: Terms
    reranking: Terms | None
    exploration: BoolArray

    def where(self, kept: BoolArray) -> "PageTerms":
        """The terms of the posts selected by bool (n)."""
        reranking = self.reranking.where(kept) if self.reranking else None
        return PageTerms(self.terms.where(kept), reranking, self.exploration[kept])


@fast_dataclass
class PageResult:
    """A page of a timeline: posts in order, best first.

    Attributes:
        post_ids: int64 (n).
        scores: float32 (n).
        next_page_token: The token of the next page; empty on the last page.
        ranker: Which ranker ordered the posts.
        model_version: The version of the model; empty for the heuristic.
        cache: Where the timeline came from.
        degraded_reason: Set when the heuristic answered as the fallback.
        arm: The arm that serves the user's scroll; empty without experiments.
        explained: The explain terms; set with `explain`, while the timeline's model is loaded.
        dropped_posts: The drop reason of each post of `explain_post_ids`, by ascending id.
    """

    post_ids: IntArray
    scores: FloatArray
    next_page_token: str
    ranker: RankerName
    model_version: str
    cache: CacheStatus
    degraded_reason: DegradedReason | None = None
    arm: str = ""
    explained: PageTerms | None = None
    dropped_posts: Mapping[int, DropReason] = field(default_factory=dict)
