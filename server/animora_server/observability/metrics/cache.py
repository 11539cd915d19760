"""Look-ups and writes in Redis."""

import time

from prometheus_client import CollectorRegistry

from animora_server.observability.instruments import Across, Counter, Gauge, Histogram
from animora_server.observability.metrics.stages import STAGE_BUCKETS


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
            "animora_cache_breaker_open",
            "1 while the circuit breaker is open: Redis is not used.",
            Across.MAX,
            registry,
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
