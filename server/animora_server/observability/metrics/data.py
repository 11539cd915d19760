"""The data that the server holds, and its age: the catalog, the cache in Redis, models."""

import time
from collections import deque
from collections.abc import Callable
from statistics import fmean

from prometheus_client import CollectorRegistry

from animora_artifact.errors import RejectionReason
from animora_database.views import VIEWS
from animora_server.observability.instruments import Counter, Gauge, Histogram, MultiprocessMode
from animora_server.observability.metrics.calls import STAGE_BUCKETS
from animora_server.rollout_names import Band


class CatalogMetrics:
    """Recorded by the catalog sync at each refresh, and by the listener."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.posts = Gauge(
            "animora_catalog_posts", "Posts that can be ranked.", MultiprocessMode.MAX, registry
        ).labels()
        self.bytes = Gauge(
            "animora_catalog_bytes",
            "Memory of the catalog, without embeddings.",
            MultiprocessMode.SUM,
            registry,
        ).labels()
        self.epoch = Gauge(
            "animora_catalog_epoch",
            "Number of times all rows were reassigned.",
            MultiprocessMode.MAX,
            registry,
        ).labels()
        refreshes = Counter("animora_catalog_refreshes", "Refreshes, by outcome.", registry, ("outcome",))
        self.refreshes = {outcome: refreshes.labels(outcome) for outcome in ("ok", "error")}
        self.refresh_seconds = Histogram(
            "animora_catalog_refresh_seconds", "Duration of a refresh.",
            (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60), registry,
        ).labels()  # fmt: skip
        left_out = Gauge(
            "animora_catalog_left_out_rows",
            "Rows of a view that were ignored at the last reconcile, by reason.",
            MultiprocessMode.MAX,
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
            "Embeddings treated as absent: of another width than the catalog's, or not finite.",
            MultiprocessMode.MAX,
            registry,
            ("column",),
        )
        self.unusable_embeddings = {column: unusable.labels(column) for column in ("image", "caption")}
        self._age = Gauge(
            "animora_catalog_age_seconds", "Time since the last successful refresh; +Inf before the first.",
            MultiprocessMode.MAX, registry,
        ).labels()  # fmt: skip
        self._block_age = Gauge(
            "animora_blocks_age_seconds", "Time since the blocks were last read; +Inf before the first.",
            MultiprocessMode.MAX, registry,
        ).labels()  # fmt: skip

        self.hiding_tables = Gauge(
            "animora_catalog_hiding_tables",
            "Tables under the views whose row-level security hides rows, at the last reconcile.",
            MultiprocessMode.MAX,
            registry,
        ).labels()
        self.listening = Gauge(
            "animora_catalog_listening", "1 while LISTEN works: blocks and deletions take effect at commit.",
            MultiprocessMode.MIN, registry,
        ).labels()  # fmt: skip
        notifications = Counter(
            "animora_catalog_notifications",
            "Notifications from the database, by kind; dropped: arrived too fast to be applied.",
            registry,
            ("kind",),
        )
        self.notifications = {
            kind: notifications.labels(kind)
            for kind in ("block", "unblock", "delete", "unreadable", "dropped")
        }

    def age_from(self, age: Callable[[], float]) -> None:
        """Sets the function that returns the catalog's age in seconds; called at each scrape."""
        self._age.set_function(age)

    def block_age_from(self, age: Callable[[], float]) -> None:
        """Sets the function that returns the age of the blocks in seconds; called at each scrape."""
        self._block_age.set_function(age)


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

    # Why ACTIVE is refused: its signature, its age, or its content.
    ACTIVE_REASONS = ("signature", "replayed", "content")
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
        rollbacks = Counter(
            "animora_model_rollbacks",
            "Active versions that left a band of the section rollback, by band.",
            registry,
            ("band",),
        )
        self.rollbacks = {band: rollbacks.labels(band.value) for band in Band}
        self._rolled_back = Gauge(
            "animora_model_rolled_back",
            "1 for a version that left a band, until ACTIVE changes.",
            MultiprocessMode.MAX,
            registry,
            ("version", "band"),
        )
        self.slowdown = Gauge(
            "animora_model_slowdown",
            "Time on the device of a newly activated version over that of the one before; NaN without one.",
            MultiprocessMode.MAX,
            registry,
        ).labels()
        self.score_shift = Gauge(
            "animora_model_score_shift",
            "Population stability index of the scores of a newly activated version and those of the one "
            "before; NaN without one.",
            MultiprocessMode.MAX,
            registry,
        ).labels()
        self.store_errors = Counter(
            "animora_model_store_errors", "Failed reads of the model store.", registry
        ).labels()
        active_refusals = Counter(
            "animora_model_active_refusals",
            "Readings of ACTIVE that were refused: not signed by the key (signature), older than one that "
            "was followed (replayed), or damaged (content).",
            registry,
            ("reason",),
        )
        self.active_refusals = {reason: active_refusals.labels(reason) for reason in self.ACTIVE_REASONS}
        self._store_age = Gauge(
            "animora_model_store_age_seconds",
            "Time since ACTIVE was last read; +Inf before the first read, NaN without a store.",
            MultiprocessMode.MAX,
            registry,
        ).labels()
        self._store_age.set(float("nan"))

    def rolled_back(self, version: str, band: Band) -> None:
        """Counts a roll-back of a version, which has left a band; it is refused from now on."""
        self.rollbacks[band].inc()
        self._rolled_back.only(version, band.value).set(1)

    def nothing_rolled_back(self) -> None:
        """Records that no version is refused because it was rolled back."""
        self._rolled_back.clear()

    def store_age_from(self, age: Callable[[], float]) -> None:
        """Sets the function that returns the seconds since ACTIVE was last read; called at each scrape."""
        self._store_age.set_function(age)

    def active(self, version: str, created_timestamp: float) -> None:
        """Sets the active version and its creation time, in Unix seconds."""
        self._active.only(version).set(1)
        self._created.set(created_timestamp)
        self._age.set_function(lambda: time.time() - created_timestamp)


MEAN_OF = 256  # samples


class ShadowMetrics:
    """Recorded by shadow scoring, once per sampled request."""

    OUTCOMES = ("scored", "dropped", "unknown_user", "failed", "invalid_scores")

    def __init__(self, registry: CollectorRegistry) -> None:
        samples = Counter(
            "animora_shadow_samples",
            "Requests sampled for the shadow version: dropped while the device was busy; failed, or with "
            "scores that are not finite; of users that it does not know.",
            registry,
            ("outcome",),
        )
        self._samples = {outcome: samples.labels(outcome) for outcome in self.OUTCOMES}
        self._overlap = Histogram(
            "animora_shadow_overlap",
            "Share of a request's best ten posts that the shadow version and the served one have in common.",
            (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
            registry,
        ).labels()
        self._shift = Histogram(
            "animora_shadow_score_shift",
            "Difference of the mean probabilities of the shadow version and the served one for a request.",
            (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
            registry,
        ).labels()
        self._shifts: deque[float] = deque(maxlen=MEAN_OF)
        Gauge(
            "animora_shadow_mean_score_shift",
            "Probabilities of the shadow version less the served ones, mean of the last samples; NaN without "
            "one.",
            MultiprocessMode.EACH,
            registry,
        ).labels().set_function(lambda: _mean(list(self._shifts)))
        self._seconds = Histogram(
            "animora_shadow_seconds",
            "Time on the device of the shadow version for a request.",
            STAGE_BUCKETS,
            registry,
        ).labels()

    def sampled(self, outcome: str) -> None:
        """Counts a sample by its outcome."""
        self._samples[outcome].inc()

    def compared(self, overlap: float, shift: float, seconds: float) -> None:
        """Records the overlap of the best posts, the shift of probabilities, and the time on the device."""
        self._overlap.observe(overlap)
        self._shift.observe(abs(shift))
        self._shifts.append(shift)
        self._seconds.observe(seconds)


def _mean(values: list[float]) -> float:
    return fmean(values) if values else float("nan")
