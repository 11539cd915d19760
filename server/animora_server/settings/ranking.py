"""The section `ranking`."""

from pydantic import Field

from animora_server.settings.section import CENTURY, Section


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
