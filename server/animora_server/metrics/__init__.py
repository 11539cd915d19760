"""The Prometheus instruments, by the stage that records them, on a registry that is passed in.

Where labels have values that are known beforehand, they are made here, so that they are scraped as zeros.
"""

from animora_server.metrics.background import BackgroundMetrics
from animora_server.metrics.cache import CacheMetrics
from animora_server.metrics.calls import CODES, ArrivalMetrics, CallMetrics
from animora_server.metrics.catalog import CatalogMetrics
from animora_server.metrics.models import ModelMetrics
from animora_server.metrics.process import Metrics, process_registry
from animora_server.metrics.rankings import RankMetrics
from animora_server.metrics.scorer import ScorerMetrics
from animora_server.metrics.stages import StageMetrics
from animora_server.metrics.timelines import TimelineMetrics
from animora_server.metrics.workers import DeviceProcessMetrics, WorkerMetrics

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
