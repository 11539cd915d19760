"""gRPC calls, the rankings and pages that they return, and the stages and the device queue on the way."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, get_args

from prometheus_client import CollectorRegistry

from animora_server.observability.instruments import (
    CountCell,
    Counter,
    Gauge,
    Histogram,
    HistogramCell,
    MultiprocessMode,
)
from animora_server.rollout_names import CONTROL, Band, FallbackReason
from animora_server.types import CacheStatus, DegradedReason, DropReason, RankerName

LATENCY_BUCKETS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
)  # fmt: skip
STAGE_BUCKETS = (
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5,
)  # fmt: skip
# The names of the gRPC status codes.
CODES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
    "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
ROW_BUCKETS = (1, 10, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)
REQUEST_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
NO_RANKER = "none"


class ArrivalMetrics:
    """Calls before they reach a handler, and calls that never reach one. Recorded by the handler look-up."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._arrived: list[Callable[[], int]] = []
        self._calls = Counter(
            "animora_grpc_calls",
            "Calls of all services: arrived at gRPC, and taken from gRPC to be handled. The difference "
            "waits, or was shed because too many calls waited.",
            registry,
            ("stage",),
        )
        rejected = Counter(
            "animora_grpc_rejected_calls",
            "Calls that gRPC ended without a handler: the method does not exist (unknown_method), or the "
            "call ended before its message was received (unreceived), because the message or the metadata "
            "was too large, the message was compressed, or the client disconnected.",
            registry,
            ("reason",),
        )
        self.taken = self._calls.labels("taken")
        self.unknown = rejected.labels("unknown_method")
        self.unreceived = rejected.labels("unreceived")

    def arrived_from(self, read: Callable[[], int]) -> None:
        """Adds a function that returns the number of calls that arrived at a port; called at each scrape."""
        self._arrived.append(read)
        self._calls.set_function(lambda: sum(read() for read in self._arrived), "arrived")


class InFlight(Protocol):
    """The interface of `service.admission.AdmissionController` that metrics need."""

    @property
    def calls(self) -> int:
        """How many calls are in flight."""
        ...

    @property
    def rows(self) -> int:
        """How many candidates are in flight."""
        ...


class CallMetrics:
    """Recorded once per gRPC call, by `service.calls`."""

    def __init__(self, registry: CollectorRegistry, service: str, methods: tuple[str, ...]) -> None:
        self.arrivals = ArrivalMetrics(registry)
        names = ("grpc_type", "grpc_service", "grpc_method")
        self._started = Counter("grpc_server_started", "Calls started.", registry, names)
        self._ended = Counter("grpc_server_handled", "Calls ended.", registry, (*names, "grpc_code"))
        self._handling = Histogram(
            "grpc_server_handling_seconds",
            "Time from the start of a call's handler to its end.",
            LATENCY_BUCKETS,
            registry,
            names,
        )
        self._in_flight: list[InFlight] = []
        Gauge(
            "animora_calls_in_flight", "Calls being handled.", MultiprocessMode.SUM, registry
        ).labels().set_function(lambda: sum(each.calls for each in self._in_flight))
        Gauge(
            "animora_rows_in_flight", "Candidates being handled.", MultiprocessMode.SUM, registry
        ).labels().set_function(lambda: sum(each.rows for each in self._in_flight))
        self.concurrency_limit = Gauge(
            "animora_concurrency_limit",
            "Calls that may be in flight at once, as adapted to the load; grpc.max_calls_in_flight without "
            "overload.",
            MultiprocessMode.SUM,
            registry,
        ).labels()
        self.started: dict[str, CountCell] = {}
        self.handling: dict[str, HistogramCell] = {}
        self._handled: dict[tuple[str, str], CountCell] = {}
        self.add_service(service, methods)

    def watch(self, in_flight: InFlight) -> None:
        """Adds the calls and candidates that a port handles; read at each scrape."""
        self._in_flight.append(in_flight)

    def add_service(self, service: str, methods: tuple[str, ...]) -> None:
        """Adds the methods of a service, whose names no other service has."""
        for method in methods:
            labels = ("unary", service, method)
            self.started[method] = self._started.labels(*labels)
            self.handling[method] = self._handling.labels(*labels)
            for code in CODES:
                self._handled[method, code] = self._ended.labels(*labels, code)

    def handled(self, method: str, code: str) -> None:
        """Counts the end of a call with a status code's name."""
        self._handled[method, code].inc()


class RankMetrics:
    """Recorded once per ranking, by the service."""

    def __init__(self, registry: CollectorRegistry, methods: tuple[str, ...]) -> None:
        requests = Counter(
            "animora_requests",
            "Rankings by method, status code and ranker (none for an error).",
            registry,
            ("method", "code", "ranker"),
        )
        degraded = Counter(
            "animora_degraded",
            "Rankings in which the heuristic replaced the model (fallback).",
            registry,
            ("reason",),
        )
        dropped = Counter(
            "animora_dropped_candidates", "Candidates dropped from rankings.", registry, ("reason",)
        )
        cache = Counter("animora_rank_cache", "Rankings, by source of their scores.", registry, ("status",))
        self.candidates = Histogram(
            "animora_candidates", "Candidates per request.", ROW_BUCKETS, registry
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
        """Counts `amount` rankings with the same outcome; `ranker` is None for an error."""
        self._requests[method, code, ranker or NO_RANKER].inc(amount)


class ArmMetrics:
    """What the arms of the experiments answer, control included. Empty without experiments.

    Args:
        registry: The registry.
        methods: The methods that rank.
        arms: The names of the arms, without control.
    """

    SCORE_BUCKETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    FALLBACK_REASONS: tuple[FallbackReason, ...] = get_args(FallbackReason)

    def __init__(self, registry: CollectorRegistry, methods: tuple[str, ...], arms: Sequence[str]) -> None:
        requests = Counter(
            "animora_arm_requests",
            "Rankings by arm: ok, why the heuristic replaced the model, or error, which counts for the arm "
            "that the user belongs to. Invalid requests do not count.",
            registry,
            ("method", "arm", "outcome"),
        )
        seconds = Histogram(
            "animora_arm_seconds",
            "Time to answer a call, by arm; a BatchRank counts once for each arm in it.",
            LATENCY_BUCKETS,
            registry,
            ("method", "arm"),
        )
        best_score = Histogram(
            "animora_arm_best_score",
            "Highest score of a ranking or page that the model ranked, by arm.",
            self.SCORE_BUCKETS,
            registry,
            ("arm",),
        )
        fallbacks = Counter(
            "animora_arm_fallbacks",
            "Queries of an arm's users that control served: the arm's version is not loaded yet (loading) or "
            "cannot be loaded (refused), or the arm is switched off (disabled).",
            registry,
            ("arm", "reason"),
        )
        enabled = Gauge(
            "animora_arm_enabled",
            "0 while the arm is switched off.",
            MultiprocessMode.MIN,
            registry,
            ("arm",),
        )
        left_bands = Counter(
            "animora_arm_left_bands",
            "Arms that were switched off because their version left a band of the section rollback.",
            registry,
            ("arm", "band"),
        )
        self._left_bands = {(arm, band): left_bands.labels(arm, band.value) for arm in arms for band in Band}
        self._enabled = {arm: enabled.labels(arm) for arm in arms}
        answering = (CONTROL, *arms) if arms else ()
        outcomes = ("ok", *(reason.value for reason in DegradedReason), "error")
        self.requests = {
            (method, arm, outcome): requests.labels(method, arm, outcome)
            for method in methods
            for arm in answering
            for outcome in outcomes
        }
        self.seconds = {(method, arm): seconds.labels(method, arm) for method in methods for arm in answering}
        self.best_score = {arm: best_score.labels(arm) for arm in answering}
        self._fallbacks = {
            (arm, reason): fallbacks.labels(arm, reason) for arm in arms for reason in self.FALLBACK_REASONS
        }

    def left_band(self, arm: str, band: Band) -> None:
        """Counts an arm that was switched off because its version left a band."""
        self._left_bands[arm, band].inc()

    def enabled_from(self, is_enabled: Callable[[str], bool]) -> None:
        """Sets the function that tells whether the arm of a name is switched on; called at each scrape."""
        for arm, enabled in self._enabled.items():
            enabled.set_function(partial(is_enabled, arm))

    def fell_back(self, arm: str, reason: FallbackReason) -> None:
        """Counts a query of an arm's user that control served."""
        self._fallbacks[arm, reason].inc()


class TimelineMetrics:
    """Recorded once per page, and once per background rebuild."""

    def __init__(self, registry: CollectorRegistry) -> None:
        pages = Counter("animora_timeline_pages", "Pages, by source of their timeline.", registry, ("cache",))
        refreshes = Counter(
            "animora_timeline_refreshes",
            "Timelines rebuilt while an earlier one was served.",
            registry,
            ("why",),
        )
        self.pages = {status: pages.labels(status.value) for status in CacheStatus}
        self._refreshes = {
            why: refreshes.labels(why) for why in ("early", "stale", "newer", "restart", "degraded")
        }

    def refreshed(self, why: str) -> None:
        """Counts a rebuild in the background; `why`: "early", "stale", "newer", "restart" or "degraded"."""
        self._refreshes[why].inc()


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
