"""The section `catalog`."""

from pathlib import Path

from pydantic import Field

from animora_server.settings.section import CENTURY, DAY, Section


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
