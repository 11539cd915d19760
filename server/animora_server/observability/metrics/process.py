"""Background loops, child processes, and all metrics of a serving process on one registry."""

from collections.abc import Mapping, Sequence
from functools import partial
from threading import Lock
from typing import Literal, Protocol

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from animora_server.observability.instruments import Counter, Gauge, MultiprocessMode
from animora_server.observability.metrics.calls import (
    ArmMetrics,
    CallMetrics,
    RankMetrics,
    ScorerMetrics,
    StageMetrics,
    TimelineMetrics,
)
from animora_server.observability.metrics.data import (
    CacheMetrics,
    CatalogMetrics,
    ModelMetrics,
    ShadowMetrics,
)


class Loop(Protocol):
    """The interface of `background.BackgroundLoop` that metrics need."""

    @property
    def name(self) -> str:
        """The name of the task."""
        ...

    @property
    def failures(self) -> Mapping[Literal["expected", "unexpected"], int]:
        """Failed rounds so far, by kind of error."""
        ...

    @property
    def age(self) -> float:
        """Seconds since the last success."""
        ...


class BackgroundMetrics:
    """Failures and ages of background loops, read from the loops at each scrape."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._failures = Counter(
            "animora_background_failures",
            "Failed rounds of background loops; expected: outages, unexpected: bugs.",
            registry,
            ("task", "kind"),
        )
        self._age = Gauge(
            "animora_background_age_seconds",
            "Time since the last success of a background loop, or since its start.",
            MultiprocessMode.MAX,
            registry,
            ("task",),
        )

    def count(self, *loops: Loop) -> None:
        """Exports the failures of loops."""
        for loop in loops:
            for kind in loop.failures:
                self._failures.set_function(partial(loop.failures.__getitem__, kind), loop.name, kind)

    def watch(self, *loops: Loop) -> None:
        """Exports the failures of loops, and the seconds since their last success."""
        self.count(*loops)
        for loop in loops:
            self._age.labels(loop.name).set_function(partial(getattr, loop, "age"))


class AuthMetrics:
    """Callers that a port refused. Thread-safe, since the HTTP port runs on threads."""

    def __init__(self, registry: CollectorRegistry) -> None:
        refusals = Counter(
            "animora_auth_refusals",
            "Callers that a port refused: not known (unauthenticated), or without the role "
            "(permission_denied).",
            registry,
            ("port", "reason"),
        )
        self._refusals = {
            (port, reason): refusals.labels(port, reason)
            for port in ("grpc", "admin", "http")
            for reason in ("unauthenticated", "permission_denied")
        }
        self._lock = Lock()

    def refused(self, port: Literal["grpc", "admin", "http"], reason: str) -> None:
        """Counts a refusal; `reason`: "unauthenticated" or "permission_denied"."""
        with self._lock:
            self._refusals[port, reason].inc()


class WorkerMetrics:
    """Recorded by the supervisor, of its workers."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.serving = Gauge(
            "animora_workers_serving", "Workers that serve calls.", MultiprocessMode.SUM, registry
        ).labels()
        restarts = Counter(
            "animora_worker_restarts",
            "Workers that ended and were replaced, by reason.",
            registry,
            ("why",),
        )
        self.restarts = {why: restarts.labels(why) for why in ("failed", "hung", "stopped")}


class DeviceProcessMetrics:
    """Recorded by the supervisor, of the shared device's process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.serving = Gauge(
            "animora_device_serving",
            "1 while the shared device's process runs.",
            MultiprocessMode.SUM,
            registry,
        ).labels()
        restarts = Counter(
            "animora_device_restarts",
            "Shared device processes that ended and were replaced, by reason.",
            registry,
            ("why",),
        )
        self.restarts = {why: restarts.labels(why) for why in ("failed", "hung", "stopped")}


def process_registry() -> CollectorRegistry:
    """A new registry with the standard metrics of this process: CPU, memory, garbage collector, platform."""
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    return registry


class Metrics:
    """All metrics of a process that serves calls."""

    def __init__(
        self, registry: CollectorRegistry, service: str, methods: tuple[str, ...], arms: Sequence[str] = ()
    ) -> None:
        self.registry = registry
        self.calls = CallMetrics(registry, service, methods)
        self.auth = AuthMetrics(registry)
        self.ranks = RankMetrics(registry, methods)
        self.arms = ArmMetrics(registry, methods, arms)
        self.timelines = TimelineMetrics(registry)
        self.stages = StageMetrics(registry)
        self.scorer = ScorerMetrics(registry)
        self.cache = CacheMetrics(registry)
        self.catalog = CatalogMetrics(registry)
        self.models = ModelMetrics(registry)
        self.shadow = ShadowMetrics(registry)
        self.background = BackgroundMetrics(registry)
        self.serving = Gauge(
            "animora_serving",
            "1 while health reports SERVING; with workers, of any of them.",
            MultiprocessMode.MAX,
            registry,
        ).labels()
