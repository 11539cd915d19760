"""Every option of the server, in one frozen object: `ANIMORA_*` over a TOML file over defaults."""

from animora_server.settings.cache import REDIS_SCHEMES, CacheSettings
from animora_server.settings.catalog import CatalogSettings
from animora_server.settings.database import DatabaseSettings
from animora_server.settings.grpc import MAX_WORKERS, GrpcSettings
from animora_server.settings.http import HttpSettings
from animora_server.settings.log import LogSettings
from animora_server.settings.models import ModelSettings
from animora_server.settings.precompute import PrecomputeSettings
from animora_server.settings.ranking import RankingSettings
from animora_server.settings.scorer import ScorerSettings
from animora_server.settings.settings import Settings
from animora_server.settings.timeline import TimelineSettings

__all__ = [
    "MAX_WORKERS",
    "REDIS_SCHEMES",
    "CacheSettings",
    "CatalogSettings",
    "DatabaseSettings",
    "GrpcSettings",
    "HttpSettings",
    "LogSettings",
    "ModelSettings",
    "PrecomputeSettings",
    "RankingSettings",
    "ScorerSettings",
    "Settings",
    "TimelineSettings",
]
