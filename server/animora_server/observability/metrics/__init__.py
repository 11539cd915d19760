"""The Prometheus instruments, by the stage that records them, on a registry that is passed in.

Where labels have values that are known beforehand, they are made here, so that they are scraped as zeros.
"""

from animora_server.observability.metrics.background import BackgroundMetrics
from animora_server.observability.metrics.cache import CacheMetrics
from animora_server.observability.metrics.calls import CODES, ArrivalMetrics, CallMetrics
from animora_server.observability.metrics.catalog import CatalogMetrics
from animora_server.observability.metrics.models import ModelMetrics
from animora_server.observability.metrics.process import Metrics, process_registry
from animora_server.observability.metrics.rankings import RankMetrics
from animora_server.observability.metrics.scorer import ScorerMetrics
from animora_server.observability.metrics.stages import StageMetrics
from animora_server.observability.metrics.timelines import TimelineMetrics
from animora_server.observability.metrics.workers import DeviceProcessMetrics, WorkerMetrics

__all__ = [
    "CODES",
    "ArrivalMetrics",
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
