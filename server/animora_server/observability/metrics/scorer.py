"""The queue for the device, and its batches."""

from prometheus_client import CollectorRegistry

from animora_server.observability.instruments import Across, Counter, Gauge, Histogram
from animora_server.observability.metrics.stages import STAGE_BUCKETS

ROW_BUCKETS = (1, 10, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)
REQUEST_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class ScorerMetrics:
    """Recorded once a batch, and on the way into the queue."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.queue_rows = Gauge(
            "animora_queue_rows", "Rows waiting for the device.", Across.SUM, registry
        ).labels()
        self._queue_seconds = Histogram(
            "animora_queue_seconds",
            "Time that work waited in the queue for the device.",
            STAGE_BUCKETS,
            registry,
        ).labels()
        skipped = Counter(
            "animora_skipped_work", "Queued work that never reached the device.", registry, ("reason",)
        )
        self._skipped = {reason: skipped.labels(reason) for reason in ("cancelled", "expired", "refused")}
        self._batch_rows = Histogram("animora_batch_rows", "Rows of a batch.", ROW_BUCKETS, registry).labels()
        self._batch_requests = Histogram(
            "animora_batch_requests",
            "Pieces of work in a batch; coalesced queries are one.",
            REQUEST_BUCKETS,
            registry,
        ).labels()
        self._batch_seconds = Histogram(
            "animora_batch_seconds", "Time of a batch on the device.", STAGE_BUCKETS, registry
        ).labels()
        self._device_faults = Counter(
            "animora_device_faults", "Batches that the device failed.", registry
        ).labels()

    def skipped(self, reason: str) -> None:
        """Work left unexecuted: "cancelled", "expired" or "refused"."""
        self._skipped[reason].inc()

    def executed(self, rows: int, works: int, seconds: float) -> None:
        """A batch ran."""
        self._batch_rows.observe(rows)
        self._batch_requests.observe(works)
        self._batch_seconds.observe(seconds)

    def faulted(self) -> None:
        """The device failed a batch."""
        self._device_faults.inc()

    def waited(self, seconds: float) -> None:
        """Work reached its batch."""
        self._queue_seconds.observe(seconds)
