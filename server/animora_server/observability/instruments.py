"""Prometheus instruments whose use costs the request path next to nothing."""

import threading
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Generic, TypeVar

import numpy as np
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

Series = TypeVar("Series")
Family = TypeVar("Family", bound=Metric)

FOLD_AT = 1024  # observations that wait at most: 8 KiB, and a tenth of a millisecond to fold


class Instrument(Collector, Generic[Series, Family]):
    """A Prometheus metric of a series for each set of values of its labels.

    Args:
        name: Its name; of a counter, without `_total`.
        documentation: What it tells.
        registry: Where it is scraped.
        labels: Names of its labels.
    """

    def __init__(
        self, name: str, documentation: str, registry: CollectorRegistry, labels: Sequence[str] = ()
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._labels = tuple(labels)
        self._series: dict[tuple[str, ...], Series] = {}
        registry.register(self)

    def labels(self, *values: str) -> Series:
        """The series under values of the labels."""
        series = self._series.get(values)
        if series is None:
            series = self._series[values] = self._new()
        return series

    def describe(self) -> Iterator[Metric]:
        """The metric without its samples."""
        yield self._family()

    def collect(self) -> Iterator[Metric]:
        """The metric as it is now; called on the thread of a scrape."""
        family = self._family()
        for values, series in list(self._series.items()):
            self._add(family, values, series)
        yield family

    @abstractmethod
    def _new(self) -> Series:
        """A series of which nothing is known yet."""

    @abstractmethod
    def _family(self) -> Family:
        """The metric without its samples."""

    @abstractmethod
    def _add(self, family: Family, values: Sequence[str], series: Series) -> None:
        """Adds a series to the metric."""


class CountCell:
    """A count under one set of labels, of one thread: `prometheus_client` takes a lock and 1 µs each time."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self, amount: int = 1) -> None:
        """Counts so many; always on the event loop's thread."""
        self.value += amount


class _CountElsewhere(CountCell):
    """A count that another object keeps."""

    __slots__ = ("_read",)

    def __init__(self, read: Callable[[], int]) -> None:
        self._read = read

    @property
    def value(self) -> int:  # type: ignore[override]  # never set, and read by Counter alone
        return self._read()


class Counter(Instrument[CountCell, CounterMetricFamily]):
    """A Prometheus counter."""

    def set_function(self, read: Callable[[], int], *values: str) -> None:
        """Shows what `read` gives under values of the labels; called on the thread of a scrape."""
        self._series[values] = _CountElsewhere(read)

    def _new(self) -> CountCell:
        return CountCell()

    def _family(self) -> CounterMetricFamily:
        return CounterMetricFamily(self._name, self._documentation, labels=self._labels)

    def _add(self, family: CounterMetricFamily, values: Sequence[str], series: CountCell) -> None:
        family.add_metric(values, series.value)


class Across(StrEnum):
    """What the values of several processes are together."""

    SUM = "sum"
    MAX = "max"
    MIN = "min"
    EACH = "each"  # stays apart, under a label of its own


class GaugeFamily(GaugeMetricFamily):
    """A gauge's samples, and how those of several processes become one."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str], across: Across) -> None:
        super().__init__(name, documentation, labels=labels)
        self.across = across


class Level:
    """A value that goes up and down: one that was set, or one that is looked up when it is scraped."""

    __slots__ = ("_read",)

    def __init__(self) -> None:
        self.set(0)

    def set(self, value: float) -> None:
        """It is this from now on."""
        self._read: Callable[[], float] = lambda: value

    def set_function(self, read: Callable[[], float]) -> None:
        """It is what this gives from now on; called on the thread of a scrape."""
        self._read = read

    def read(self) -> float:
        """What it is now."""
        return float(self._read())


class Gauge(Instrument[Level, GaugeFamily]):
    """A Prometheus gauge.

    Args:
        name: Its name.
        documentation: What it tells.
        across: What it is of several processes.
        registry: Where it is scraped.
        labels: Names of its labels.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        across: Across,
        registry: CollectorRegistry,
        labels: Sequence[str] = (),
    ) -> None:
        self._across = across
        super().__init__(name, documentation, registry, labels)

    def only(self, *values: str) -> Level:
        """The series under values of the labels, which is the only one from now on."""
        level = Level()
        self._series = {values: level}
        return level

    def _new(self) -> Level:
        return Level()

    def _family(self) -> GaugeFamily:
        return GaugeFamily(self._name, self._documentation, self._labels, self._across)

    def _add(self, family: GaugeFamily, values: Sequence[str], series: Level) -> None:
        family.add_metric(values, series.read())


class Observations:
    """The observations under one set of labels: folded into buckets when there are many, or on a scrape.

    `prometheus_client`'s histogram takes 2 µs for each and a ranking makes eight of them; an append takes
    0.1 µs, its share of a fold as much again.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = np.asarray(bounds, np.float64)
        self._waiting: list[float] = []
        self._counts = np.zeros(len(bounds) + 1, np.int64)
        self._sum = 0.0
        self._folding = threading.Lock()

    def observe(self, value: float) -> None:
        """Records one observation."""
        self._waiting.append(value)
        if len(self._waiting) >= FOLD_AT:
            self.fold()

    def observe_all(self, values: Iterable[float]) -> None:
        """Records some."""
        self._waiting += values
        if len(self._waiting) >= FOLD_AT:
            self.fold()

    def fold(self) -> tuple[list[int], float]:
        """How many observations so far are in each bucket or one below it, the last is +Inf's; their sum.

        On any thread: what is observed meanwhile stays for the next time.
        """
        with self._folding:
            values = self._waiting[:]
            del self._waiting[: len(values)]
            self._counts += np.bincount(self._bounds.searchsorted(values), minlength=len(self._counts))
            self._sum += sum(values)
            return self._counts.cumsum().tolist(), self._sum


class Histogram(Instrument[Observations, HistogramMetricFamily]):
    """A Prometheus histogram.

    Args:
        name: Its name.
        documentation: What it tells.
        buckets: Upper bounds, ascending, without +Inf.
        registry: Where it is scraped.
        labels: Names of its labels.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        buckets: Sequence[float],
        registry: CollectorRegistry,
        labels: Sequence[str] = (),
    ) -> None:
        self._buckets = tuple(buckets)
        super().__init__(name, documentation, registry, labels)

    def _new(self) -> Observations:
        return Observations(self._buckets)

    def _family(self) -> HistogramMetricFamily:
        return HistogramMetricFamily(self._name, self._documentation, labels=self._labels)

    def _add(self, family: HistogramMetricFamily, values: Sequence[str], series: Observations) -> None:
        counts, total = series.fold()
        bounds = [*(str(float(bound)) for bound in self._buckets), "+Inf"]
        family.add_metric(values, list(zip(bounds, counts, strict=True)), total)
