"""Every option of the server, as frozen pydantic models: one section each, `Settings` holds them all."""

from animora_server.settings.data import REDIS_SCHEMES, CacheSettings, CatalogSettings, DatabaseSettings
from animora_server.settings.experiments import ArmSettings, ExperimentSettings
from animora_server.settings.inference import ModelSettings, ScorerSettings
from animora_server.settings.network import (
    MAX_WORKERS,
    AdminSettings,
    AuthSettings,
    GrpcSettings,
    HttpSettings,
)
from animora_server.settings.ranking import PrecomputeSettings, RankingSettings, TimelineSettings
from animora_server.settings.rollout import RollbackSettings, ShadowSettings
from animora_server.settings.settings import LogSettings, Settings

__all__ = [
    "MAX_WORKERS",
    "REDIS_SCHEMES",
    "AdminSettings",
    "ArmSettings",
    "AuthSettings",
    "CacheSettings",
    "CatalogSettings",
    "DatabaseSettings",
    "ExperimentSettings",
    "GrpcSettings",
    "HttpSettings",
    "LogSettings",
    "ModelSettings",
    "PrecomputeSettings",
    "RankingSettings",
    "RollbackSettings",
    "ScorerSettings",
    "Settings",
    "ShadowSettings",
    "TimelineSettings",
]
