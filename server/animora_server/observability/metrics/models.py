"""The model store and the versions from it."""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry

from animora_artifact.errors import RejectionReason
from animora_server.observability.instruments import Across, Counter, Gauge


class ModelMetrics:
    """Recorded by the model watcher."""

    # What is wrong with a version, or keeps this server from loading it.
    REASONS = (*(reason.value for reason in RejectionReason), "not_found", "device", "unexpected")

    def __init__(self, registry: CollectorRegistry) -> None:
        self._active = Gauge(
            "animora_model_active", "1 for the active version.", Across.MAX, registry, ("version",)
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
            "1 while native code scores for the active version, 0 while TorchScript does.",
            Across.MIN,
            registry,
        ).labels()
        self.activations = Counter("animora_model_activations", "Versions swapped in.", registry).labels()
        rejections = Counter(
            "animora_model_rejections", "Versions refused, by reason.", registry, ("reason",)
        )
        self.rejections = {reason: rejections.labels(reason) for reason in self.REASONS}
        self.store_errors = Counter(
            "animora_model_store_errors", "Failed reads of the model store.", registry
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
