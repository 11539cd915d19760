"""The Prometheus metrics of the server, grouped by the part that records them.

Each group registers its metrics on the registry that it is given. Series whose label values are known
beforehand are created at once, so that they are scraped as zeros.
"""

from animora_server.observability.metrics.calls import (
    CODES,
    ArmMetrics,
    ArrivalMetrics,
    CallMetrics,
    RankMetrics,
    ScorerMetrics,
    StageMetrics,
    TimelineMetrics,
)
from animora_server.observability.metrics.data import CacheMetrics, CatalogMetrics, ModelMetrics
from animora_server.observability.metrics.process import (
    AuthMetrics,
    BackgroundMetrics,
    DeviceProcessMetrics,
    Metrics,
    WorkerMetrics,
    process_registry,
)

__all__ = [
    "CODES",
    "ArmMetrics",
    "ArrivalMetrics",
    "AuthMetrics",
    "BackgroundMetrics",
    "CacheMetrics",
    "CallMetrics",
    "CatalogMetrics",
    "DeviceProcessMetrics",
    "Metrics",
    "ModelMetrics",
    "RankMetrics",
    "ScorerMetrics",
    "StageMetrics",
    "TimelineMetrics",
    "WorkerMetrics",
    "process_registry",
]
