"""Scoring: the stages of a ranking, the device queue, cache look-ups, and loaded models."""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry

from animora_artifact.errors import RejectionReason
from animora_server.observability.instruments import Counter, Gauge, Histogram, MultiprocessMode
from animora_server.observability.metrics.calls import ROW_BUCKETS

STAGE_BUCKETS = (
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5,
)  # fmt: skip
REQUEST_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class StageMetrics:
    """Time spent in each stage of a ranking."""

    STAGES = ("candidates", "cache", "score", "order")

    def __init__(self, registry: CollectorRegistry) -> None:
        stage = Histogram(
            "animora_stage_seconds",
            "Time in a stage, per batch of requests that pass it together.",
            STAGE_BUCKETS,
            registry,
            ("stage",),
        )
        self._stages = {name: stage.labels(name) for name in self.STAGES}

    def observe(self, stage: str, seconds: float) -> None:
        """Records the time of one batch in a stage."""
        self._stages[stage].observe(seconds)


class ScorerMetrics:
    """Recorded by the batcher: once per batch, and when work is queued or skipped."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.queue_rows = Gauge(
            "animora_queue_rows", "Rows queued for the device.", MultiprocessMode.SUM, registry
        ).labels()
        self._queue_seconds = Histogram(
            "animora_queue_seconds",
            "Time that a work item was queued for the device.",
            STAGE_BUCKETS,
            registry,
        ).labels()
        skipped = Counter(
            "animora_skipped_work", "Work items that never reached the device.", registry, ("reason",)
        )
        self._skipped = {reason: skipped.labels(reason) for reason in ("cancelled", "expired", "refused")}
        self._batch_rows = Histogram("animora_batch_rows", "Rows per batch.", ROW_BUCKETS, registry).labels()
        self._batch_requests = Histogram(
            "animora_batch_requests",
            "Work items per batch; uncached queries that arrived at the same time are one item.",
            REQUEST_BUCKETS,
            registry,
        ).labels()
        self._batch_seconds = Histogram(
            "animora_batch_seconds", "Execution time of a batch on the device.", STAGE_BUCKETS, registry
        ).labels()
        self._device_faults = Counter(
            "animora_device_faults", "Batches that failed on the device.", registry
        ).labels()

    def skipped(self, reason: str) -> None:
        """Counts a work item that was not executed; `reason`: "cancelled", "expired" or "refused"."""
        self._skipped[reason].inc()

    def executed(self, rows: int, works: int, seconds: float) -> None:
        """Records an executed batch: its rows, its work items, and its seconds."""
        self._batch_rows.observe(rows)
        self._batch_requests.observe(works)
        self._batch_seconds.observe(seconds)

    def faulted(self) -> None:
        """Counts a batch that failed on the device."""
        self._device_faults.inc()

    def waited(self, seconds: float) -> None:
        """Records the seconds that a work item was queued."""
        self._queue_seconds.observe(seconds)


class CacheMetrics:
    """Recorded by the Redis client."""

    def __init__(self, registry: CollectorRegistry) -> None:
        lookups = Counter(
            "animora_cache_lookups",
            "Values looked up in Redis, by kind and outcome.",
            registry,
            ("kind", "outcome"),
        )
        writes = Counter("animora_cache_writes", "Keys written to Redis, by outcome.", registry, ("outcome",))
        self.lookups = {
            kind: {
                outcome: lookups.labels(kind, outcome)
                for outcome in ("hit", "miss", "error", "unreadable", "skipped")
            }
            for kind in ("scores", "timelines", "generation")
        }
        self.writes = {outcome: writes.labels(outcome) for outcome in ("stored", "error", "dropped")}
        self.round_trip = Histogram(
            "animora_cache_round_trip_seconds",
            "Round-trip time of a look-up in Redis.",
            STAGE_BUCKETS,
            registry,
        ).labels()
        self.breaker_open = Gauge(
            "animora_cache_breaker_open",
            "1 while the circuit breaker is open and look-ups are skipped.",
            MultiprocessMode.MAX,
            registry,
        ).labels()
        self._generation_age = Gauge(
            "animora_generation_age_seconds",
            "Age of the current generation of precomputed timelines, since its start; NaN without one.",
            MultiprocessMode.MAX,
            registry,
        ).labels()
        self.generation(None)

    def generation(self, made_at: float | None) -> None:
        """Sets the start of the current generation, in Unix seconds; None without a generation."""
        self._generation_age.set_function(lambda: float("nan") if made_at is None else time.time() - made_at)


class ModelMetrics:
    """Recorded by the model watcher."""

    # Why a version is refused: the artifact's own reasons, and this server's.
    REASONS = (*(reason.value for reason in RejectionReason), "not_found", "device", "unexpected")

    def __init__(self, registry: CollectorRegistry) -> None:
        self._active = Gauge(
            "animora_model_active", "1 for the active version.", MultiprocessMode.MAX, registry, ("version",)
        )
        self._created = Gauge(
            "animora_model_created_timestamp_seconds",
            "Creation time of the active version.",
            MultiprocessMode.MAX,
            registry,
        ).labels()
        self._age = Gauge(
            "animora_model_age_seconds",
            "Age of the active version; NaN without one.",
            MultiprocessMode.MAX,
            registry,
        ).labels()
        self._age.set(float("nan"))
        self.resident = Gauge(
            "animora_models_resident", "Versions loaded on the device.", MultiprocessMode.MAX, registry
        ).labels()
        self.compiled = Gauge(
            "animora_model_compiled",
            "1 while the active version is scored by native code, 0 by TorchScript.",
            MultiprocessMode.MIN,
            registry,
        ).labels()
        self.activations = Counter("animora_model_activations", "Activated versions.", registry).labels()
        rejections = Counter(
            "animora_model_rejections", "Versions refused, by reason.", registry, ("reason",)
        )
        self.rejections = {reason: rejections.labels(reason) for reason in self.REASONS}
        self.store_errors = Counter(
            "animora_model_store_errors", "Failed reads of the model store.", registry
        ).labels()
        self._store_age = Gauge(
            "animora_model_store_age_seconds",
            "Time since ACTIVE was last read; +Inf before the first read, NaN without a store.",
            MultiprocessMode.MAX,
            registry,
        ).labels()
        self._store_age.set(float("nan"))

    def store_age_from(self, age: Callable[[], float]) -> None:
        """Sets the function that returns the seconds since ACTIVE was last read; called at each scrape."""
        self._store_age.set_function(age)

    def active(self, version: str, created_timestamp: float) -> None:
        """Sets the active version and its creation time, in Unix seconds."""
        self._active.only(version).set(1)
        self._created.set(created_timestamp)
        self._age.set_function(lambda: time.time() - created_timestamp)
