"""The sections `ranking`, `timeline` and `precompute`: limits of requests, and how feeds are built."""

from pydantic import Field, SecretStr, field_validator, model_validator

from animora_server.settings.section import CENTURY, DAY, INT32, Section


class RankingSettings(Section):
    """The heuristic's weights, and the limits of a request."""

    popularity_weight: float = Field(
        default=0.6, ge=0, le=1, description="weight of popularity in the heuristic; recency has the rest"
    )
    recency_scale_hours: float = Field(
        default=6.0, gt=0.001, le=24 * CENTURY, description="hours in which recency decays to 1/e"
    )
    max_candidates: int = Field(default=10_000, ge=1, le=100_000, description="candidates per request")
    max_batch_requests: int = Field(default=256, ge=1, le=100_000, description="requests per BatchRank")
    max_batch_candidates: int = Field(
        default=100_000, ge=1, le=10_000_000, description="candidates per BatchRank"
    )


class TimelineSettings(Section):
    """GetTimeline: which posts, in which order, and how long timelines and page tokens live."""

    window_days: float = Field(
        default=30.0, gt=0.001, le=CENTURY, description="days after which a post leaves all timelines"
    )
    max_candidates: int = Field(
        default=10_000, ge=1, le=100_000, description="newest eligible posts that are ranked for a timeline"
    )
    max_posts: int = Field(
        default=500, ge=1, le=100_000, description="posts that a ranked timeline keeps, best first"
    )
    max_bytes: int = Field(
        default=8192,
        ge=1024,
        le=16 << 20,
        description="bytes that one timeline may take in Redis; may cut it below max_posts",
    )
    include_own: bool = Field(default=False, description="show users their own posts")
    page_size: int = Field(
        default=20,
        ge=1,
        le=100_000,
        description="posts per page when the request sets no page_size; at most max_page_size",
    )
    max_page_size: int = Field(default=100, ge=1, le=100_000, description="largest page_size")
    ttl: float = Field(
        default=300.0, gt=0.01, le=30 * DAY, description="seconds that a timeline is fresh, with 10 % jitter"
    )
    stale_ttl: float = Field(
        default=600.0,
        ge=0,
        le=30 * DAY,
        description="seconds after ttl in which a timeline is served as STALE while it is rebuilt",
    )
    precomputed_ttl: float = Field(
        default=100_800.0,
        gt=0.01,
        le=90 * DAY,
        description="seconds that a precomputed timeline is fresh: a day, plus four hours for the next run",
    )
    token_ttl: float = Field(
        default=1800.0, ge=1, le=7 * DAY, description="seconds that a user may scroll through one timeline"
    )
    token_key: SecretStr = Field(
        default=SecretStr(""),
        description="key that signs page tokens, the same on all replicas, 16 bytes or more; empty draws a "
        "random one at start-up, so that tokens end with the process",
    )
    early_refresh: float = Field(
        default=1.0,
        ge=0,
        le=1e30,
        description="beta of XFetch, the probabilistic early refresh of a timeline; 0 disables it",
    )
    recency_weight: float = Field(
        default=0.0, ge=0, le=1, description="re-ranking: weight of recency; the ranker's score has the rest"
    )
    popularity_weight: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="re-ranking: weight of popularity; the ranker's score has the rest",
    )
    author_discount: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="re-ranking: score factor for each higher-ranked post of the same author; 1 is off",
    )
    exploration_share: float = Field(
        default=0.0,
        ge=0,
        le=0.5,
        description="re-ranking: share of positions reserved for posts with few interactions",
    )
    exploration_below: int = Field(
        default=5,
        ge=1,
        le=INT32,
        description="re-ranking: a post with fewer likes and comments is eligible for such a position",
    )

    @field_validator("token_key")
    @classmethod
    def _check_key_length(cls, key: SecretStr) -> SecretStr:
        if 0 < len(key.get_secret_value().encode()) < 16:
            raise ValueError("must have 16 bytes or more, or be empty")
        return key

    @model_validator(mode="after")
    def _check_weights(self) -> "TimelineSettings":
        if self.recency_weight + self.popularity_weight > 1:
            raise ValueError("recency_weight + popularity_weight must be at most 1")
        return self


class PrecomputeSettings(Section):
    """`animora-server precompute`."""

    workers: int = Field(
        default=2, ge=1, le=256, description="ranking threads; each uses one core, or they share the GPU"
    )
    resume_within: float = Field(
        default=21_600.0,
        ge=600,
        le=30 * DAY,
        description="seconds after its last write in which an unfinished generation can be resumed; later "
        "runs begin a new one",
    )
