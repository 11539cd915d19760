"""The Prometheus instruments, by the stage that records them, on a registry that is passed in.

Where labels have values that are known beforehand, they are made here, so that they are scraped as zeros.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, Protocol

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from animora_artifact.errors import RejectionReason
from animora_database.views import VIEWS
from animora_server.instruments import Across, Counter, Gauge, Histogram
from animora_server.types import CacheStatus, DegradedReason, DropReason, RankerName

LATENCY_BUCKETS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
)  # fmt: skip
STAGE_BUCKETS = (
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5,
)  # fmt: skip
ROW_BUCKETS = (1, 10, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)
# The names of gRPC's status codes.
CODES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
    "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
NO_RANKER = "none"
REQUEST_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def process_registry() -> CollectorRegistry:
    """A registry with what Python and the kernel tell of this process."""
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    return registry


class ArrivalMetrics:
    """Recorded by what finds the handler of a call: what becomes of calls before that, or without one."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._calls = Counter(
            "animora_grpc_calls",
            "Calls of all services that arrived at gRPC, and those that were taken from it to be handled; "
            "the others were shed, as too many waited.",
            registry,
            ("stage",),
        )
        rejected = Counter(
            "animora_grpc_rejected_calls",
            "Calls that gRPC ended without a handler: there is no such method (unknown_method), or they "
            "ended before their message was there (unreceived): it or the metadata was too large, it was "
            "compressed, or the caller has gone.",
            registry,
            ("reason",),
        )
        self.taken = self._calls.labels("taken")
        self.unknown = rejected.labels("unknown_method")
        self.unreceived = rejected.labels("unreceived")

    def arrived_from(self, read: Callable[[], int]) -> None:
        """Reads how many calls arrived at gRPC whenever they are scraped."""
        self._calls.set_function(read, "arrived")


class CallMetrics:
    """Recorded once a gRPC call, by the call wrapper."""

    def __init__(self, registry: CollectorRegistry, service: str, methods: tuple[str, ...]) -> None:
        self.arrivals = ArrivalMetrics(registry)
        names = ("grpc_type", "grpc_service", "grpc_method")
        started = Counter("grpc_server_started", "Calls started.", registry, names)
        handled = Counter("grpc_server_handled", "Calls ended.", registry, (*names, "grpc_code"))
        handling = Histogram(
            "grpc_server_handling_seconds",
            "Time from taking a call to its end.",
            LATENCY_BUCKETS,
            registry,
            names,
        )
        self.in_flight = Gauge(
            "animora_calls_in_flight", "Calls being handled.", Across.SUM, registry
        ).labels()
        self.rows_in_flight = Gauge(
            "animora_rows_in_flight", "Candidates being handled.", Across.SUM, registry
        ).labels()
        labels = {method: ("unary", service, method) for method in methods}
        self.started = {method: started.labels(*label) for method, label in labels.items()}
        self.handling = {method: handling.labels(*label) for method, label in labels.items()}
        self._handled = {
            (method, code): handled.labels(*label, code) for method, label in labels.items() for code in CODES
        }

    def handled(self, method: str, code: str) -> None:
        """Counts the end of a call with a status code's name."""
        self._handled[method, code].inc()


class RankMetrics:
    """Recorded once a ranking, by the service."""

    def __init__(self, registry: CollectorRegistry, methods: tuple[str, ...]) -> None:
        requests = Counter(
            "animora_requests",
            "Rankings by method, status code and ranker (none for an error).",
            registry,
            ("method", "code", "ranker"),
        )
        degraded = Counter(
            "animora_degraded",
            "Rankings in which the heuristic stood in for the model.",
            registry,
            ("reason",),
        )
        dropped = Counter(
            "animora_dropped_candidates", "Candidates left out of an order.", registry, ("reason",)
        )
        cache = Counter(
            "animora_rank_cache", "Rankings by where their scores came from.", registry, ("status",)
        )
        self.candidates = Histogram(
            "animora_candidates", "Candidates of a request.", ROW_BUCKETS, registry
        ).labels()
        outcomes = [("OK", ranker.value) for ranker in RankerName]
        outcomes += [(code, NO_RANKER) for code in CODES if code != "OK"]
        self._requests = {
            (method, *outcome): requests.labels(method, *outcome)
            for method in methods
            for outcome in outcomes
        }
        self.degraded = {reason: degraded.labels(reason.value) for reason in DegradedReason}
        self.dropped = {reason: dropped.labels(reason.value) for reason in DropReason}
        self.cache = {status: cache.labels(status.value) for status in CacheStatus}

    def request(self, method: str, code: str, ranker: RankerName | None, amount: int = 1) -> None:
        """Counts rankings that came out alike."""
        self._requests[method, code, ranker or NO_RANKER].inc(amount)


class TimelineMetrics:
    """Recorded once a page, and once a renewal."""

    def __init__(self, registry: CollectorRegistry) -> None:
        pages = Counter(
            "animora_timeline_pages", "Pages by where their list came from.", registry, ("cache",)
        )
        refreshes = Counter(
            "animora_timeline_refreshes", "Lists made while the one before was served.", registry, ("why",)
        )
        self.pages = {status: pages.labels(status.value) for status in CacheStatus}
        self._refreshes = {
            why: refreshes.labels(why) for why in ("early", "stale", "newer", "restart", "degraded")
        }

    def refreshed(self, why: str) -> None:
        """A list is made while another is served: "early", "stale", "newer", "restart" or "degraded"."""
        self._refreshes[why].inc()


class StageMetrics:
    """Time spent in each stage of a ranking."""

    STAGES = ("candidates", "cache", "score", "order")

    def __init__(self, registry: CollectorRegistry) -> None:
        stage = Histogram(
            "animora_stage_seconds",
            "Time in a stage of requests that go through it together.",
            STAGE_BUCKETS,
            registry,
            ("stage",),
        )
        self._stages = {name: stage.labels(name) for name in self.STAGES}

    def observe(self, stage: str, seconds: float) -> None:
        """Records one pass through a stage."""
        self._stages[stage].observe(seconds)


class ScorerMetrics:
    """Recorded once a batch, and on the way into the queue."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.queue_rows = Gauge(
            "animora_queue_rows", "Rows waiting for the device.", Across.SUM, registry
        ).labels()
        self._queue_seconds = Histogram(
            "animora_queue_seconds", "Time that work waited for the device.", STAGE_BUCKETS, registry
        ).labels()
        skipped = Counter(
            "animora_skipped_work", "Queued work that never reached the device.", registry, ("reason",)
        )
        self._skipped = {reason: skipped.labels(reason) for reason in ("cancelled", "expired", "refused")}
        self._batch_rows = Histogram(
            "animora_batch_rows", "Rows scored at once.", ROW_BUCKETS, registry
        ).labels()
        self._batch_requests = Histogram(
            "animora_batch_requests",
            "Pieces of work scored at once; uncached queries that came together are one.",
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


class CacheMetrics:
    """Recorded by the Redis client."""

    def __init__(self, registry: CollectorRegistry) -> None:
        lookups = Counter(
            "animora_cache_lookups",
            "Values looked up in Redis, by kind and outcome.",
            registry,
            ("kind", "outcome"),
        )
        writes = Counter("animora_cache_writes", "Keys written, by outcome.", registry, ("outcome",))
        self.lookups = {
            kind: {
                outcome: lookups.labels(kind, outcome)
                for outcome in ("hit", "miss", "error", "unreadable", "skipped")
            }
            for kind in ("scores", "timelines", "generation")
        }
        self.writes = {outcome: writes.labels(outcome) for outcome in ("stored", "error", "dropped")}
        self.round_trip = Histogram(
            "animora_cache_round_trip_seconds", "Time of one look-up round trip.", STAGE_BUCKETS, registry
        ).labels()
        self.breaker_open = Gauge(
            "animora_cache_breaker_open", "1 while Redis is left alone after failures.", Across.MAX, registry
        ).labels()
        self._generation_age = Gauge(
            "animora_generation_age_seconds",
            "Time since the current generation of precomputed timelines was begun; NaN without one.",
            Across.MAX,
            registry,
        ).labels()
        self.generation(None)

    def generation(self, made_at: float | None) -> None:
        """The current generation is of a time, in Unix seconds, or there is none."""
        self._generation_age.set_function(lambda: float("nan") if made_at is None else time.time() - made_at)


class CatalogMetrics:
    """Recorded at each refresh of the catalog, and by what listens between them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.posts = Gauge(
            "animora_catalog_posts", "Posts that can be ranked.", Across.MAX, registry
        ).labels()
        self.bytes = Gauge(
            "animora_catalog_bytes", "Memory of the catalog, embeddings aside.", Across.SUM, registry
        ).labels()
        self.epoch = Gauge(
            "animora_catalog_epoch", "How often rows were assigned anew.", Across.MAX, registry
        ).labels()
        refreshes = Counter("animora_catalog_refreshes", "Refreshes, by outcome.", registry, ("outcome",))
        self.refreshes = {outcome: refreshes.labels(outcome) for outcome in ("ok", "error")}
        self.refresh_seconds = Histogram(
            "animora_catalog_refresh_seconds", "Time of a refresh.",
            (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60), registry,
        ).labels()  # fmt: skip
        left_out = Gauge(
            "animora_catalog_left_out_rows",
            "Rows of a view that did not count at the last reconcile, by reason.",
            Across.MAX,
            registry,
            ("view", "reason"),
        )
        self.left_out = {
            (view, reason): left_out.labels(view, reason)
            for view, reason in [
                *((view.name, reason) for view in VIEWS for reason in view.conditions),
                ("posts", "duplicate"),
            ]
        }
        unusable = Gauge(
            "animora_catalog_unusable_embeddings",
            "Embeddings that count as absent: of another width than the catalog keeps, or not finite.",
            Across.MAX,
            registry,
            ("column",),
        )
        self.unusable_embeddings = {column: unusable.labels(column) for column in ("image", "caption")}
        self._age = Gauge(
            "animora_catalog_age_seconds", "Time since the last successful refresh; +Inf before the first.",
            Across.MAX, registry,
        ).labels()  # fmt: skip
        self._block_age = Gauge(
            "animora_blocks_age_seconds", "Time since the blocks were last read; +Inf before the first.",
            Across.MAX, registry,
        ).labels()  # fmt: skip

        self.hiding_tables = Gauge(
            "animora_catalog_hiding_tables",
            "Tables under the views that hide rows by row-level security, at the last reconcile.",
            Across.MAX,
            registry,
        ).labels()
        self.listening = Gauge(
            "animora_catalog_listening", "1 while blocks and deletions are heard of as they are committed.",
            Across.MIN, registry,
        ).labels()  # fmt: skip
        notifications = Counter(
            "animora_catalog_notifications",
            "Notifications of the database, by what they tell; those dropped came too fast to be applied.",
            registry,
            ("kind",),
        )
        self.notifications = {
            kind: notifications.labels(kind)
            for kind in ("block", "unblock", "delete", "unreadable", "dropped")
        }

    def age_from(self, age: Callable[[], float]) -> None:
        """Reads the catalog's age, in seconds, whenever it is scraped."""
        self._age.set_function(age)

    def block_age_from(self, age: Callable[[], float]) -> None:
        """Reads the age of the blocks, in seconds, whenever it is scraped."""
        self._block_age.set_function(age)


class ModelMetrics:
    """Recorded by the model watcher."""

    # What is wrong with a version, or keeps this server from loading it.
    REASONS = (*(reason.value for reason in RejectionReason), "not_found", "device", "memory", "unexpected")

    def __init__(self, registry: CollectorRegistry) -> None:
        self._active = Gauge(
            "animora_model_active", "1 for the version that answers.", Across.MAX, registry, ("version",)
        )
        self._created = Gauge(
            "animora_model_created_timestamp_seconds",
            "When the active version was made.",
            Across.MAX,
            registry,
        ).labels()
        self._age = Gauge(
            "animora_model_age_seconds", "Age of the active version; NaN without one.", Across.MAX, registry
        ).labels()
        self._age.set(float("nan"))
        self.resident = Gauge(
            "animora_models_resident", "Versions on the device.", Across.MAX, registry
        ).labels()
        self.compiled = Gauge(
            "animora_model_compiled",
            "1 while compiled code scores for the active version, 0 while TorchScript does.",
            Across.MIN,
            registry,
        ).labels()
        self.activations = Counter("animora_model_activations", "Versions swapped in.", registry).labels()
        rejections = Counter(
            "animora_model_rejections", "Versions refused, by reason.", registry, ("reason",)
        )
        self.rejections = {reason: rejections.labels(reason) for reason in self.REASONS}
        self.store_errors = Counter(
            "animora_model_store_errors", "Looks at the model store that failed.", registry
        ).labels()
        self._store_age = Gauge(
            "animora_model_store_age_seconds",
            "Time since the store last named an active version; +Inf before it did, NaN without a store.",
            Across.MAX,
            registry,
        ).labels()
        self._store_age.set(float("nan"))

    def store_age_from(self, age: Callable[[], float]) -> None:
        """Reads the age of the last look at the store, in seconds, whenever it is scraped."""
        self._store_age.set_function(age)

    def active(self, version: str, created_timestamp: float) -> None:
        """Names the version that answers from now on."""
        self._active.only(version).set(1)
        self._created.set(created_timestamp)
        self._age.set_function(lambda: time.time() - created_timestamp)


class Loop(Protocol):
    """See background.Loop."""

    @property
    def name(self) -> str:
        """Of the task."""
        ...

    @property
    def failures(self) -> Mapping[Literal["expected", "unexpected"], int]:
        """Failed rounds so far, by the kind of their error."""
        ...

    @property
    def age(self) -> float:
        """Seconds since the last success."""
        ...


class BackgroundMetrics:
    """Shows how background loops are; the loops keep the figures."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._failures = Counter(
            "animora_background_failures",
            "Failed rounds of background tasks; expected are outages, unexpected are bugs.",
            registry,
            ("task", "kind"),
        )
        self._age = Gauge(
            "animora_background_age_seconds",
            "Time since a background task last succeeded, or since its start.",
            Across.MAX,
            registry,
            ("task",),
        )

    def count(self, *loops: Loop) -> None:
        """Shows the failures of loops."""
        for loop in loops:
            for kind in loop.failures:
                self._failures.set_function(partial(loop.failures.__getitem__, kind), loop.name, kind)

    def watch(self, *loops: Loop) -> None:
        """Shows the failures of loops, and when they last succeeded, which must be now and then."""
        self.count(*loops)
        for loop in loops:
            self._age.labels(loop.name).set_function(partial(getattr, loop, "age"))


class WorkerMetrics:
    """Recorded by the process that keeps workers."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.serving = Gauge(
            "animora_workers_serving", "Workers that answer calls.", Across.SUM, registry
        ).labels()
        restarts = Counter(
            "animora_worker_restarts",
            "Workers that ended, by what ended them, and were replaced.",
            registry,
            ("why",),
        )
        self.restarts = {why: restarts.labels(why) for why in ("failed", "hung", "stopped")}


class DeviceProcessMetrics:
    """Recorded by the process that keeps workers, of the one whose device they share."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.serving = Gauge(
            "animora_device_serving",
            "1 while the process whose device is shared is there.",
            Across.SUM,
            registry,
        ).labels()
        restarts = Counter(
            "animora_device_restarts",
            "Processes with the shared device that ended, by what ended them, and were replaced.",
            registry,
            ("why",),
        )
        self.restarts = {why: restarts.labels(why) for why in ("failed", "hung", "stopped")}


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
