"""The section `cache`."""

from pydantic import Field, SecretStr, field_validator

from animora_server.settings.section import DAY, MINUTE, Section

REDIS_SCHEMES = (
    "redis://", "rediss://", "unix://", "redis+sentinel://", "rediss+sentinel://", "redis+cluster://",
    "rediss+cluster://",
)  # fmt: skip


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
        description="seconds between checks for a new generation of timelines",
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
