"""The processes that a parent keeps: workers, and the one with the device that they share."""

from prometheus_client import CollectorRegistry

from animora_server.observability.instruments import Across, Counter, Gauge


class WorkerMetrics:
    """Recorded by the process that keeps workers."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.serving = Gauge(
            "animora_workers_serving", "Workers that answer calls.", Across.SUM, registry
        ).labels()
        restarts = Counter(
            "animora_worker_restarts",
            "Workers that were replaced, by how they ended.",
            registry,
            ("why",),
        )
        self.restarts = {why: restarts.labels(why) for why in ("failed", "hung", "stopped")}


class DeviceProcessMetrics:
    """Recorded by the process that keeps workers, of the one whose device they share."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.serving = Gauge(
            "animora_device_serving",
            "1 while the process with the shared device exists.",
            Across.SUM,
            registry,
        ).labels()
        restarts = Counter(
            "animora_device_restarts",
            "Replaced processes with the shared device, by how they ended.",
            registry,
            ("why",),
        )
        self.restarts = {why: restarts.labels(why) for why in ("failed", "hung", "stopped")}
