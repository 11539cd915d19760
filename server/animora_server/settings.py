"""Every option of the server, in one frozen object: `ANIMORA_*` over a TOML file over defaults."""

from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

MAX_WORKERS = 256
MINUTE, HOUR, DAY = 60, 3600, 86_400  # seconds
CENTURY = 36_500  # days
INT32 = 2**31 - 1  # the largest number that gRPC takes
REDIS_SCHEMES = (
    "redis://", "rediss://", "unix://", "redis+sentinel://", "rediss+sentinel://", "redis+cluster://",
    "rediss+cluster://",
)  # fmt: skip


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Section(BaseModel):
    """A group of options: frozen, an unknown name is an error, and errors never quote a value."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_no_switches(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, bool) and cls._type_of(info) in {int, float}:
            raise ValueError("must be a number, not true or false")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _text_is_text(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, str) and "\0" in value:
            raise ValueError("must have no NUL character")
        if cls._type_of(info) == Path | None:  # whose bytes need not be UTF-8
            return value or None
        if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError("must be UTF-8")
        return value

    @classmethod
    def _type_of(cls, info: ValidationInfo) -> Any:
        return cls.model_fields[str(info.field_name)].annotation


class GrpcSettings(Section):
    """Where and how calls are taken."""

    host: str = Field(
        default="127.0.0.1", description="address to listen on; beyond loopback needs TLS or `insecure`"
    )
    port: int = Field(default=50051, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    workers: int = Field(
        default=1,
        ge=1,
        le=MAX_WORKERS,
        description="processes that share the port (`serve`), each with a catalog of its own",
    )
    pin_workers: bool = Field(
        default=False, description="keep each worker on a core, which they take in turns (Linux)"
    )
    insecure: bool = Field(default=False, description="allow an address beyond loopback without TLS")
    tls_certificate: Path | None = Field(
        default=None, description="PEM file with the server's certificate chain"
    )
    tls_key: Path | None = Field(default=None, description="PEM file with the server's private key")
    max_message_bytes: int = Field(
        default=2 << 20, ge=1024, le=INT32, description="bytes of the largest request"
    )
    max_metadata_bytes: int = Field(
        default=16 << 10, ge=1024, le=16 << 20, description="bytes of the largest request metadata"
    )
    max_rows_in_flight: int = Field(
        default=1_000_000,
        ge=1,
        le=10**9,
        description="candidates in flight before a call is refused (RESOURCE_EXHAUSTED); a post that is "
        "explained counts as 50",
    )
    max_calls_in_flight: int = Field(
        default=4096, ge=1, le=1_000_000, description="calls in flight before one is refused"
    )
    default_timeout: float = Field(
        default=0.5, gt=0.001, le=HOUR, description="seconds a call may take where it names no deadline"
    )
    drain_delay: float = Field(
        default=1.0,
        ge=0,
        le=HOUR,
        description="seconds between saying NOT_SERVING and refusing new calls at shutdown",
    )
    drain_grace: float = Field(
        default=10.0, ge=0, le=HOUR, description="seconds for calls in flight at shutdown"
    )
    max_connection_age: float = Field(
        default=300.0, ge=1, le=7 * DAY, description="seconds before a connection is asked to reconnect"
    )

    @model_validator(mode="after")
    def _safe_to_bind(self) -> "GrpcSettings":
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together: set both or neither")
        if not is_loopback(self.host) and self.tls_certificate is None and not self.insecure:
            raise ValueError(
                f"host {self.host} is beyond loopback and TLS is off: set tls_certificate and tls_key, "
                "or say insecure = true"
            )
        return self


class HttpSettings(Section):
    """Where metrics and probes are served."""

    host: str = Field(
        default="127.0.0.1",
        description="address of /metrics, /livez and /readyz; beyond loopback needs `insecure`",
    )
    port: int = Field(
        default=9464, ge=0, le=65535, description="port of /metrics, /livez and /readyz; 0 takes a free one"
    )
    insecure: bool = Field(
        default=False, description="allow an address beyond loopback: there is no TLS on this port"
    )


class DatabaseSettings(Section):
    """The application's PostgreSQL, read through the four views."""

    url: SecretStr = Field(
        default=SecretStr(""),
        description="connection string, as libpq takes it, of a role that may read the schema `animora`; "
        "required",
    )
    listen_url: SecretStr = Field(
        default=SecretStr(""),
        description="connection string of a direct connection to the same server, on which notifications of "
        "blocks and deletions arrive, where `url` leads through a pooler; empty takes `url`",
    )
    listen_timeout: float = Field(
        default=2.0,
        gt=0.001,
        le=HOUR,
        description="seconds in which a notification sent to itself must arrive on that connection; "
        "it is tried as often",
    )
    timeout: float = Field(default=5.0, gt=0.001, le=HOUR, description="seconds to connect to a host")
    command_timeout: float = Field(default=60.0, gt=0.001, le=DAY, description="seconds one query may take")


class CatalogSettings(Section):
    """How the resident catalog follows the database."""

    poll_interval: float = Field(
        default=2.0, gt=0.001, le=30 * DAY, description="seconds between incremental refreshes"
    )
    reconcile_interval: float = Field(
        default=120.0,
        gt=0.001,
        le=30 * DAY,
        description="seconds between full recounts, which also compare all live post ids",
    )
    recount_window: float = Field(
        default=600.0,
        gt=0.001,
        le=30 * DAY,
        description="seconds of interactions recounted at each refresh, for late commits and un-likes",
    )
    seen_window_days: float = Field(
        default=90.0, gt=0.001, le=CENTURY, description="days of interactions that exclude_seen knows"
    )
    max_block_age: float = Field(
        default=600.0,
        gt=0.1,
        le=30 * DAY,
        description="seconds without a successful read of the blocks before calls get UNAVAILABLE",
    )
    directory: Path | None = Field(
        default=None,
        description="folder for the memory-mapped embeddings; a private temporary one by default",
    )


class ModelSettings(Section):
    """The model store and what is kept of it."""

    store: str = Field(
        default="",
        description="folder, file:// or s3:// URL of the model store; empty serves the heuristic alone",
    )
    verify_key: Path | None = Field(
        default=None,
        description="PEM file with a public key; a version not signed with its private key is refused",
    )
    trusted: bool = Field(
        default=False,
        description="whoever can write to the store may run code in this server: compiled code of versions "
        "that are not signed is loaded",
    )
    preflight: bool = Field(
        default=True,
        description="open and replay a new version in a process of its own before this one loads it",
    )
    poll_interval: float = Field(
        default=2.0, gt=0.001, le=DAY, description="seconds between looks at the ACTIVE pointer"
    )
    resident: int = Field(
        default=2, ge=1, le=8, description="versions kept on the device, the active one included"
    )
    ready_requires_model: bool = Field(default=False, description="be NOT_SERVING until a model is loaded")


class ScorerSettings(Section):
    """The device and its queue; work is counted in rows (user-post pairs)."""

    device: str = Field(
        default="auto", pattern="^(auto|cpu|cuda(:[0-9]+)?)$", description="auto, cpu, cuda or cuda:N"
    )
    dtype: Literal["float32", "float16", "bfloat16"] = Field(
        default="float32",
        description="arithmetic of the resident models; half precision, for GPUs, is used for those whose "
        "golden rows allow it",
    )
    compiled: bool = Field(
        default=True,
        description="score on the CPU by the compiled code that a version may hold, not by TorchScript",
    )
    threads: int = Field(
        default=1, ge=1, le=256, description="CPU threads of one batch; compiled code takes one"
    )
    max_batch_rows: int = Field(
        default=8192, ge=256, le=1 << 18, description="rows scored at once; a larger request is split"
    )
    max_queue_rows: int = Field(
        default=200_000,
        ge=10_000,
        le=10**9,
        description="rows waiting before the heuristic answers instead; not below what one request may hold",
    )
    gather_window: float = Field(
        default=0.0, ge=0, le=0.1, description="seconds to wait for more rows before a batch"
    )
    shared: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="with workers: one process has the device and scores for all; auto is on for a GPU",
    )
    hang_timeout: float = Field(
        default=10.0, gt=0.001, le=HOUR, description="seconds a batch may run before the process gives up"
    )


class CacheSettings(Section):
    """Redis, read through; best effort."""

    url: SecretStr = Field(
        default=SecretStr(""),
        description="redis://, rediss:// (TLS) or unix:// URL, with +sentinel or +cluster after redis or "
        "rediss for those; empty for no cache",
    )
    timeout: float = Field(
        default=0.02, gt=0.0001, le=MINUTE, description="seconds before a look-up is a miss"
    )
    ttl: float = Field(
        default=300.0, gt=0.01, le=30 * DAY, description="seconds that scores live, jittered by a tenth"
    )
    generation_poll_interval: float = Field(
        default=2.0,
        gt=0.001,
        le=MINUTE,
        description="seconds between looks for a new generation of timelines",
    )
    max_connections: int = Field(
        default=16, ge=4, le=10_000, description="connections to Redis; in a Cluster, to each node"
    )
    prefix: str = Field(
        default="animora", pattern="^[A-Za-z0-9_.-]{1,32}$", description="first part of every key"
    )

    @field_validator("url")
    @classmethod
    def _known_scheme(cls, url: SecretStr) -> SecretStr:
        if url and not url.get_secret_value().startswith(REDIS_SCHEMES):
            raise ValueError(f"must begin with one of {', '.join(REDIS_SCHEMES)}, or be empty")
        return url


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
        default=20, ge=1, le=100_000, description="posts on a page where the call does not say"
    )
    max_page_size: int = Field(default=100, ge=1, le=100_000, description="posts on a page at most")
    ttl: float = Field(
        default=300.0, gt=0.01, le=30 * DAY, description="seconds that a list is fresh, jittered by a tenth"
    )
    stale_ttl: float = Field(
        default=600.0,
        ge=0,
        le=30 * DAY,
        description="seconds after that in which it may be served, as STALE, while it is ranked anew",
    )
    precomputed_ttl: float = Field(
        default=100_800.0,
        gt=0.01,
        le=90 * DAY,
        description="seconds that a precomputed timeline is fresh; a day, and four hours for the next run",
    )
    token_ttl: float = Field(
        default=1800.0, ge=1, le=7 * DAY, description="seconds in which a user may scroll through one list"
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
        description="how eagerly a list is renewed before it is due (XFetch's beta); 0 waits until then",
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


class RankingSettings(Section):
    """The heuristic, and what a request may hold."""

    popularity_weight: float = Field(
        default=0.6, ge=0, le=1, description="the heuristic's weight of popularity; the rest is recency's"
    )
    recency_scale_hours: float = Field(
        default=6.0, gt=0.001, le=24 * CENTURY, description="hours in which recency falls to 1/e"
    )
    max_candidates: int = Field(default=10_000, ge=1, le=100_000, description="candidates of one request")
    max_batch_requests: int = Field(default=256, ge=1, le=100_000, description="requests of one BatchRank")
    max_batch_candidates: int = Field(
        default=100_000, ge=1, le=10_000_000, description="candidates of one BatchRank"
    )


class PrecomputeSettings(Section):
    """`animora-server precompute`."""

    workers: int = Field(
        default=2, ge=1, le=256, description="threads that rank; each keeps a core busy, or shares the GPU"
    )
    resume_within: float = Field(
        default=21_600.0,
        ge=600,
        le=30 * DAY,
        description="seconds for which an unfinished generation waits to be gone on with, from when something"
        " was last written for it; then a new one is begun",
    )


class LogSettings(Section):
    """The log on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least level that is written"
    )
    format: Literal["json", "console"] = Field(
        default="json", description="one JSON object a line, or text for people"
    )


class Settings(Section):
    """All options."""

    grpc: GrpcSettings = GrpcSettings()
    http: HttpSettings = HttpSettings()
    database: DatabaseSettings = DatabaseSettings()
    catalog: CatalogSettings = CatalogSettings()
    models: ModelSettings = ModelSettings()
    scorer: ScorerSettings = ScorerSettings()
    cache: CacheSettings = CacheSettings()
    ranking: RankingSettings = RankingSettings()
    timeline: TimelineSettings = TimelineSettings()
    precompute: PrecomputeSettings = PrecomputeSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _fit_together(self) -> "Settings":
        if not is_loopback(self.http.host) and not self.http.insecure:
            raise ValueError(
                f"http.host {self.http.host} is beyond loopback, and metrics and probes are plain HTTP: set "
                "http.insecure = true where nobody reaches the port who must not read them"
            )
        if self.http.port == self.grpc.port != 0:
            raise ValueError(f"http.port is grpc.port, {self.grpc.port}: each needs one of its own")
        for option, candidates in (
            ("ranking.max_candidates", self.ranking.max_candidates),
            ("timeline.max_candidates", self.timeline.max_candidates),
        ):
            if candidates > self.scorer.max_queue_rows:
                raise ValueError(
                    f"scorer.max_queue_rows is below {option}: the queue would never take a request of "
                    f"{candidates} candidates"
                )
        return self
