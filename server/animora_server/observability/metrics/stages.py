"""The stages of a ranking, and the buckets of times that are part of a call."""

from prometheus_client import CollectorRegistry

from animora_server.observability.instruments import Histogram

STAGE_BUCKETS = (
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5,
)  # fmt: skip


class StageMetrics:
    """Time spent in each stage of a ranking."""

    STAGES = ("candidates", "cache", "score", "order")

    def __init__(self, registry: CollectorRegistry) -> None:
        stage = Histogram(
            "animora_stage_seconds",
            "Time in a stage of requests that go through it as one batch.",
            STAGE_BUCKETS,
            registry,
            ("stage",),
        )
        self._stages = {name: stage.labels(name) for name in self.STAGES}

    def observe(self, stage: str, seconds: float) -> None:
        """Records one pass through a stage."""
        self._stages[stage].observe(seconds)
