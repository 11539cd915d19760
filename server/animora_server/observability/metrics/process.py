"""The registry of a process, and all instruments of one that answers calls."""

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from animora_server.observability.instruments import Across, Gauge
from animora_server.observability.metrics.background import BackgroundMetrics
from animora_server.observability.metrics.cache import CacheMetrics
from animora_server.observability.metrics.calls import CallMetrics
from animora_server.observability.metrics.catalog import CatalogMetrics
from animora_server.observability.metrics.models import ModelMetrics
from animora_server.observability.metrics.rankings import RankMetrics
from animora_server.observability.metrics.scorer import ScorerMetrics
from animora_server.observability.metrics.stages import StageMetrics
from animora_server.observability.metrics.timelines import TimelineMetrics


def process_registry() -> CollectorRegistry:
    """A registry with what Python and the kernel tell of this process."""
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    return registry


class Metrics:
    """All instruments of a process that answers calls."""

    def __init__(self, registry: CollectorRegistry, service: str, methods: tuple[str, ...]) -> None:
        self.registry = registry
        self.calls = CallMetrics(registry, service, methods)
        self.ranks = RankMetrics(registry, methods)
        self.timelines = TimelineMetrics(registry)
        self.stages = StageMetrics(registry)
        self.scorer = ScorerMetrics(registry)
        self.cache = CacheMetrics(registry)
        self.catalog = CatalogMetrics(registry)
        self.models = ModelMetrics(registry)
        self.background = BackgroundMetrics(registry)
        self.serving = Gauge(
            "animora_serving", "1 while health says SERVING, of any worker.", Across.MAX, registry
        ).labels()
