"""Rankings, one by one or in a batch."""

from prometheus_client import CollectorRegistry

from animora_server.observability.instruments import Counter, Histogram
from animora_server.observability.metrics.calls import CODES
from animora_server.observability.metrics.scorer import ROW_BUCKETS
from animora_server.types import CacheStatus, DegradedReason, DropReason, RankerName

NO_RANKER = "none"


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
            "Fallbacks: rankings by the heuristic in place of the model.",
            registry,
            ("reason",),
        )
        dropped = Counter(
            "animora_dropped_candidates",
            "Candidates left out of a ranking, by reason.",
            registry,
            ("reason",),
        )
        cache = Counter(
            "animora_rank_cache", "Rankings, by the source of their scores.", registry, ("status",)
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
