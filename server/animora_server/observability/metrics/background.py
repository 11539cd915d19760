"""Background loops, which keep the figures themselves."""

from collections.abc import Mapping
from functools import partial
from typing import Literal, Protocol

from prometheus_client import CollectorRegistry

from animora_server.observability.instruments import Across, Counter, Gauge


class Loop(Protocol):
    """See background.BackgroundLoop."""

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
            "Failed rounds of background loops; expected are outages, unexpected are bugs.",
            registry,
            ("task", "kind"),
        )
        self._age = Gauge(
            "animora_background_age_seconds",
            "Time since a background loop last succeeded, or since its start.",
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
