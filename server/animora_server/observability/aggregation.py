"""The metrics of one process as values that can be sent, added up and shown."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.samples import Sample

from animora_server.observability.instruments import Across, GaugeFamily

PROCESS = "process_"  # how the names of what the kernel tells of a process begin
WORKER = "worker"  # the label that tells processes apart

# A sample's name and labels.
Key = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric of a process, or of several together.

    Attributes:
        name: Its name.
        documentation: What it tells.
        type: Prometheus' word for it.
        across: What it is of several processes.
        samples: Its values.
    """

    name: str
    documentation: str
    type: str
    across: Across
    samples: dict[Key, float]

    @property
    def lasts(self) -> bool:
        """Whether it counts what happened, which stays true when the process has ended."""
        return self.type in {"counter", "histogram"} and self.across is Across.SUM


Report = tuple[Family, ...]


def taken(registry: CollectorRegistry) -> Report:
    """A process' metrics as they are now."""
    return tuple(
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            _across(metric),
            {(sample.name, tuple(sample.labels.items())): sample.value for sample in metric.samples},
        )
        for metric in registry.collect()
    )


def of_process(report: Report, process: str) -> Report:
    """The same, with a label on what stays apart."""
    return tuple(
        replace(
            family,
            samples={
                (name, (*labels, (WORKER, process))): value
                for (name, labels), value in family.samples.items()
            },
        )
        if family.across is Across.EACH
        else family
        for family in report
    )


def lasting(report: Report) -> Report:
    """What stays true of a process that has ended."""
    return tuple(family for family in report if family.lasts)


def together(reports: Iterable[Report]) -> Report:
    """The metrics of several processes as those of one."""
    families: dict[str, Family] = {}
    values: dict[str, dict[Key, list[float]]] = {}
    for report in reports:
        for family in report:
            families.setdefault(family.name, family)
            of_name = values.setdefault(family.name, {})
            for key, value in family.samples.items():
                of_name.setdefault(key, []).append(value)
    return tuple(
        replace(
            family,
            samples={key: _COMBINED[family.across](several) for key, several in values[name].items()},
        )
        for name, family in families.items()
    )


def metrics(report: Report) -> Iterator[Metric]:
    """The same for `prometheus_client`."""
    for family in report:
        metric = Metric(family.name, family.documentation, family.type)
        metric.samples = [
            Sample(name, dict(labels), value) for (name, labels), value in family.samples.items()
        ]
        yield metric


def as_json(report: Report) -> list[Any]:
    """The same for `json`."""
    return [
        (family.name, family.documentation, family.type, family.across, [*family.samples.items()])
        for family in report
    ]


def from_json(families: list[Any]) -> Report:
    """What `as_json` made, after it was sent."""
    return tuple(
        Family(
            name,
            documentation,
            kind,
            Across(across),
            {
                (sample, tuple((label, of) for label, of in labels)): value
                for (sample, labels), value in samples
            },
        )
        for name, documentation, kind, across, samples in families
    )


def _across(metric: Metric) -> Across:
    if isinstance(metric, GaugeFamily):
        return metric.across
    if metric.name.startswith(PROCESS):
        return Across.EACH
    return Across.SUM if metric.type in {"counter", "histogram"} else Across.MAX


def _extreme(of: Callable[[list[float]], float]) -> Callable[[Sequence[float]], float]:
    """The largest or smallest; NaN, which is none, only where all are."""
    return lambda values: of([value for value in values if not math.isnan(value)] or [math.nan])


_COMBINED: dict[Across, Callable[[Sequence[float]], float]] = {
    Across.SUM: sum,
    Across.MAX: _extreme(max),
    Across.MIN: _extreme(min),
    Across.EACH: sum,  # of one
}
