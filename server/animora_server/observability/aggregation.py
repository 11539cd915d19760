"""Serialises the metrics of processes, and merges those of several processes into one set."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from animora_server.observability.instruments import GaugeFamily, MultiprocessMode

PROCESS_PREFIX = "process_"  # prefix of the metrics that the kernel has of a process
WORKER_LABEL = "worker"  # the label with the process' name
PARENT = "parent"  # the supervisor's value of the label `worker`
LOOP_TIMEOUT = 5.0  # seconds for the event loop, on top of the timeout for workers

# The name and the labels of a sample.
Key = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric with its samples, of one process or merged from several.

    Attributes:
        name: The name, without the suffix of its samples.
        documentation: The help text.
        type: The type in Prometheus' terms.
        mode: How the values of several processes are merged.
        samples: The values.
    """

    name: str
    documentation: str
    type: str
    mode: MultiprocessMode
    samples: dict[Key, float]

    @property
    def is_cumulative(self) -> bool:
        """Whether the values stay valid after their process has ended: counters and histograms."""
        return self.type in {"counter", "histogram"} and self.mode is MultiprocessMode.SUM


MetricsReport = tuple[Family, ...]


def collect_metrics(registry: CollectorRegistry) -> MetricsReport:
    """The current values of all metrics in a registry."""
    return tuple(
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            _mode(metric),
            {(sample.name, tuple(sample.labels.items())): sample.value for sample in metric.samples},
        )
        for metric in registry.collect()
    )


def label_process(report: MetricsReport, process: str) -> MetricsReport:
    """Adds the label `worker` to metrics that are not merged."""
    return tuple(
        replace(
            family,
            samples={
                (name, (*labels, (WORKER_LABEL, process))): value
                for (name, labels), value in family.samples.items()
            },
        )
        if family.mode is MultiprocessMode.EACH
        else family
        for family in report
    )


def cumulative_metrics(report: MetricsReport) -> MetricsReport:
    """The metrics of an ended process that still count."""
    return tuple(family for family in report if family.is_cumulative)


def merge_metrics(reports: Iterable[MetricsReport]) -> MetricsReport:
    """Merges the metrics of several processes, by name, labels and mode."""
    families: dict[str, Family] = {}
    values: dict[str, dict[Key, list[float]]] = {}
    for report in reports:
        for family in report:
            families.setdefault(family.name, family)
            by_key = values.setdefault(family.name, {})
            for key, value in family.samples.items():
                by_key.setdefault(key, []).append(value)
    return tuple(
        replace(
            family,
            samples={key: _COMBINED[family.mode](several) for key, several in values[name].items()},
        )
        for name, family in families.items()
    )


def to_prometheus(report: MetricsReport) -> Iterator[Metric]:
    """Converts a report to `prometheus_client` metrics."""
    for family in report:
        metric = Metric(family.name, family.documentation, family.type)
        metric.samples = [
            Sample(name, dict(labels), value) for (name, labels), value in family.samples.items()
        ]
        yield metric


def to_json(report: MetricsReport) -> list[Any]:
    """Converts a report to values that `json` can encode."""
    return [
        (family.name, family.documentation, family.type, family.mode, [*family.samples.items()])
        for family in report
    ]


def from_json(families: list[Any]) -> MetricsReport:
    """The inverse of `to_json`."""
    return tuple(
        Family(
            name,
            documentation,
            kind,
            MultiprocessMode(mode),
            {
                (sample, tuple((label, text) for label, text in labels)): value
                for (sample, labels), value in samples
            },
        )
        for name, documentation, kind, mode, samples in families
    )


def _mode(metric: Metric) -> MultiprocessMode:
    if isinstance(metric, GaugeFamily):
        return metric.mode
    if metric.name.startswith(PROCESS_PREFIX):
        return MultiprocessMode.EACH
    return MultiprocessMode.SUM if metric.type in {"counter", "histogram"} else MultiprocessMode.MAX


def _ignoring_nan(of: Callable[[list[float]], float]) -> Callable[[Sequence[float]], float]:
    """`max` or `min` without NaN values; NaN if all are NaN."""
    return lambda values: of([value for value in values if not math.isnan(value)] or [math.nan])


_COMBINED: dict[MultiprocessMode, Callable[[Sequence[float]], float]] = {
    MultiprocessMode.SUM: sum,
    MultiprocessMode.MAX: _ignoring_nan(max),
    MultiprocessMode.MIN: _ignoring_nan(min),
    MultiprocessMode.EACH: sum,  # a single value, since the label `worker` differs
}


class MetricsCollector(Collector):
    """Requests the workers' metrics at each scrape, and merges them with this process' own.

    Args:
        own: This process' metrics.
        reports: Returns the workers' metrics; a coroutine function that runs on the current event loop.
        timeout: Seconds that `reports` takes at most.
    """

    def __init__(
        self,
        own: CollectorRegistry,
        reports: Callable[[], Awaitable[Sequence[MetricsReport]]],
        timeout: float,
    ) -> None:
        self._own = own
        self._reports = reports
        self._timeout = timeout + LOOP_TIMEOUT
        self._loop = asyncio.get_running_loop()

    def collect(self) -> Iterator[Metric]:
        """All current metrics; called on the scrape's thread.

        Raises:
            TimeoutError: The event loop does not run.
        """

        async def request() -> Sequence[MetricsReport]:
            return await self._reports()

        future = asyncio.run_coroutine_threadsafe(request(), self._loop)
        reports = future.result(self._timeout)
        return to_prometheus(merge_metrics((label_process(collect_metrics(self._own), PARENT), *reports)))
