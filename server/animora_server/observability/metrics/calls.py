"""gRPC calls: those that arrive, those that gRPC ends itself, and those that are handled."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry

from animora_server.observability.instruments import Across, Counter, Gauge, Histogram

LATENCY_BUCKETS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
)  # fmt: skip
# The names of gRPC's status codes.
CODES = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
    "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip


class ArrivalMetrics:
    """Recorded by what finds the handler of a call: what becomes of calls before that, or without one."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._calls = Counter(
            "animora_grpc_calls",
            "Calls of all services: those that arrived at gRPC, and those that were taken from it to be "
            "handled; the difference was shed.",
            registry,
            ("stage",),
        )
        rejected = Counter(
            "animora_grpc_rejected_calls",
            "Calls that gRPC ended without a handler: of an unknown method (unknown_method), or without "
            "their message (unreceived): it or the metadata was too large, it was compressed, or the "
            "caller had gone.",
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
