"""The sections `database`, `catalog` and `cache`: PostgreSQL, the catalog in memory, and Redis."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr, field_validator

from animora_server.settings.section import CENTURY, DAY, HOUR, MINUTE, Section, matching

REDIS_SCHEMES = (
    "redis://", "rediss://", "unix://", "redis+sentinel://", "rediss+sentinel://", "redis+cluster://",
    "rediss+cluster://",
)  # fmt: skip


class DatabaseSettings(Section):
    """The application's PostgreSQL, read through the four views."""

    url: SecretStr = Field(
        default=SecretStr(""),
        description="libpq connection string of a role that may read the schema `animora`; required",
    )
    listen_url: SecretStr = Field(
        default=SecretStr(""),
        description="connection string of a direct connection to the same server for LISTEN, where `url` "
        "leads through a pooler; empty takes `url`",
    )
    password_file: Path | None = Field(
        default=None,
        description="file with the password of `url` and `listen_url`, read for each connection; it may be "
        "replaced at any time",
    )
    listen_timeout: float = Field(
        default=2.0,
        gt=0.001,
        le=HOUR,
        description="seconds between test notifications on the LISTEN connection, and within which each "
        "must arrive",
    )
    timeout: float = Field(default=5.0, gt=0.001, le=HOUR, description="seconds to connect to a host")
    command_timeout: float = Field(default=60.0, gt=0.001, le=DAY, description="seconds one query may take")


class CatalogSettings(Section):
    """The catalog in memory: how often it is refreshed, and how old it may be."""

    poll_interval: float = Field(
        default=2.0, gt=0.001, le=30 * DAY, description="seconds between incremental refreshes"
    )
    reconcile_interval: float = Field(
        default=120.0,
        gt=0.001,
        le=30 * DAY,
        description="seconds between reconciles: full recounts that also compare all live post ids",
    )
    recount_window: float = Field(
        default=600.0,
        gt=0.001,
        le=30 * DAY,
        description="seconds of interactions recounted at each refresh, for late commits and un-likes",
    )
    seen_window_days: float = Field(
        default=90.0,
        gt=0.001,
        le=CENTURY,
        description="days of interactions that exclude_seen and histories cover",
    )
    history: int = Field(
        default=0,  # no model reads them yet
        ge=0,
        le=1000,
        description="interactions kept of each user in order of time, the last ones within "
        "`seen_window_days`; 0 keeps none",
    )
    max_block_age: float = Field(
        default=600.0,
        gt=0.1,
        le=30 * DAY,
        description="seconds without a successful read of the blocks before calls get UNAVAILABLE",
    )
    directory: Path | None = Field(
        default=None,
        description="folder for the memory-mapped embeddings; a private temporary folder by default",
    )


class CacheSettings(Section):
    """Redis, a best-effort cache."""

    url: SecretStr = Field(
        default=SecretStr(""),
        description="redis://, rediss:// (TLS) or unix:// URL; +sentinel or +cluster after redis or rediss "
        "for a Sentinel or Cluster; empty for no cache",
    )
    password_file: Path | None = Field(
        default=None,
        description="file with the password of `url`, read for each connection; it may be replaced at any "
        "time",
    )
    sentinel_password_file: Path | None = Field(
        default=None, description="the same for the password of the Sentinels"
    )
    timeout: float = Field(
        default=0.02, gt=0.0001, le=MINUTE, description="seconds after which a look-up counts as a miss"
    )
    ttl: float = Field(
        default=300.0, gt=0.01, le=30 * DAY, description="seconds that cached scores live, with 10 % jitter"
    )
    generation_poll_interval: float = Field(
        default=2.0,
        gt=0.001,
        le=MINUTE,
        description="seconds between checks for a new generation of timelines",
    )
    max_connections: int = Field(
        default=16, ge=4, le=10_000, description="connections to Redis; in a Cluster, per node"
    )
    prefix: Annotated[
        str, matching("[A-Za-z0-9_.-]{1,32}", "must be 1 to 32 letters, digits, '_', '.' and '-'")
    ] = Field(default="animora", description="first part of every key")

    @field_validator("url")
    @classmethod
    def _check_scheme(cls, url: SecretStr) -> SecretStr:
        if url and not url.get_secret_value().startswith(REDIS_SCHEMES):
            raise ValueError(f"must begin with one of {', '.join(REDIS_SCHEMES)}, or be empty")
        return url
