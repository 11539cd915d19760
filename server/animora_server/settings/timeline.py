"""The section `timeline`."""

from pydantic import Field, SecretStr, field_validator, model_validator

from animora_server.settings.section import CENTURY, DAY, INT32, Section


class TimelineSettings(Section):
    """GetTimeline: which posts, in which order, and how long lists and page tokens live."""

    window_days: float = Field(
        default=30.0, gt=0.001, le=CENTURY, description="days after which a post leaves all timelines"
    )
    max_candidates: int = Field(
        default=10_000, ge=1, le=100_000, description="newest posts that are ranked for a timeline"
    )
    max_posts: int = Field(default=500, ge=1, le=100_000, description="best posts that a timeline keeps")
    max_bytes: int = Field(
        default=8192,
        ge=1024,
        le=16 << 20,
        description="bytes of Redis that one timeline may take; cuts max_posts",
    )
    include_own: bool = Field(default=False, description="show users their own posts")
    page_size: int = Field(
        default=20, ge=1, le=100_000, description="posts on a page if the call sets no page_size"
    )
    max_page_size: int = Field(default=100, ge=1, le=100_000, description="posts on a page at most")
    ttl: float = Field(
        default=300.0,
        gt=0.01,
        le=30 * DAY,
        description="seconds that a timeline is fresh, jittered by a tenth",
    )
    stale_ttl: float = Field(
        default=600.0,
        ge=0,
        le=30 * DAY,
        description="seconds after that in which it may be served, as STALE, while it is ranked again",
    )
    precomputed_ttl: float = Field(
        default=100_800.0,
        gt=0.01,
        le=90 * DAY,
        description="seconds that a precomputed timeline is fresh; a day, and four hours for the next run",
    )
    token_ttl: float = Field(
        default=1800.0,
        ge=1,
        le=7 * DAY,
        description="seconds in which a user may scroll through one timeline",
    )
    token_key: SecretStr = Field(
        default=SecretStr(""),
        description="signs page tokens, the same on all replicas, 16 bytes or more; empty draws one at the "
        "start, so that tokens end with the process",
    )
    early_refresh: float = Field(
        default=1.0,
        ge=0,
        le=1e30,
        description="how eagerly a timeline is rebuilt before it is due (XFetch's beta); 0 waits until then",
    )
    recency_weight: float = Field(
        default=0.0, ge=0, le=1, description="re-ranking: weight of recency beside the ranker's score"
    )
    popularity_weight: float = Field(
        default=0.0, ge=0, le=1, description="re-ranking: weight of popularity beside the ranker's score"
    )
    author_discount: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="re-ranking: factor on the score for each better post of the same author; 1 is off",
    )
    exploration_share: float = Field(
        default=0.0,
        ge=0,
        le=0.5,
        description="re-ranking: share of places for posts with few interactions",
    )
    exploration_below: int = Field(
        default=5,
        ge=1,
        le=INT32,
        description="re-ranking: a post with fewer likes and comments may take such a place",
    )

    @field_validator("token_key")
    @classmethod
    def _long_enough(cls, key: SecretStr) -> SecretStr:
        if 0 < len(key.get_secret_value().encode()) < 16:
            raise ValueError("must have 16 bytes or more, or be empty")
        return key

    @model_validator(mode="after")
    def _fits(self) -> "TimelineSettings":
        if self.recency_weight + self.popularity_weight > 1:
            raise ValueError("recency_weight and popularity_weight must not be above 1 together")
        return self
