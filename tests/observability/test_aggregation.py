import json
import math

import pytest
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.registry import Collector

from animora_server.observability.aggregation import (
    as_json,
    from_json,
    lasting,
    metrics,
    of_process,
    taken,
    together,
)
from animora_server.observability.instruments import Across, Counter, Gauge, Histogram
from animora_server.observability.metrics import Metrics


class Page(Collector):
    """A report as a registry shows it."""

    def __init__(self, report):
        self._report = report

    def collect(self):
        return metrics(self._report)


def text(report):
    registry = CollectorRegistry()
    registry.register(Page(report))
    return generate_latest(registry).decode()


def process(calls=0, took=(), **gauges):
    """The report of a process with some metrics."""
    registry = CollectorRegistry()
    Counter("calls", "Calls.", registry, ("code",)).labels("OK").inc(calls)
    histogram = Histogram("took_seconds", "Time.", (1, 10), registry).labels()
    for value in took:
        histogram.observe(value)
    for name, value in gauges.items():
        Gauge(name, "A gauge.", Across(name.partition("_")[0]), registry).labels().set(value)
    return taken(registry)


def test_one_process_reads_as_its_registry():
    registry = CollectorRegistry()
    captured = Metrics(registry, "service", ("Rank",))
    captured.models.active("v1", 0.0)
    captured.calls.handled("Rank", "OK")
    captured.models._age.set(3)  # a time that stands still
    assert text(together([taken(registry)])) == generate_latest(registry).decode()


def test_counts_and_observations_are_added_up():
    page = text(together([process(calls=3, took=[0.5, 20]), process(calls=4, took=[5])]))
    for line in (
        'calls_total{code="OK"} 7.0',
        'took_seconds_bucket{le="1.0"} 1.0',
        'took_seconds_bucket{le="10.0"} 2.0',
        'took_seconds_bucket{le="+Inf"} 3.0',
        "took_seconds_count 3.0",
        "took_seconds_sum 25.5",
    ):
        assert line in page.splitlines()


def test_what_only_one_process_knows_is_there_too():
    assert 'calls_total{code="OK"} 3.0' in text(together([(), process(calls=3), ()]))


@pytest.mark.parametrize(
    ("rule", "values", "expected"),
    [
        ("sum", (1, 2), 3),
        ("max", (1, 2), 2),
        ("min", (1, 2), 1),
        ("max", (math.nan, 2), 2),
        ("min", (2, math.nan), 2),
        ("max", (math.inf, 2), math.inf),
        ("max", (math.nan, math.nan), math.nan),
    ],
)
def test_a_gauge_is_put_together_by_its_rule(rule, values, expected):
    (family,) = [
        family for family in together([process(**{rule: value}) for value in values]) if family.name == rule
    ]
    assert list(family.samples.values()) == [pytest.approx(expected, nan_ok=True)]


def test_what_the_kernel_tells_stays_apart():
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    page = text(together([of_process(taken(registry), "1"), of_process(taken(registry), "2")]))
    for metric in ("process_cpu_seconds_total", "process_resident_memory_bytes"):
        for worker in ("1", "2"):
            assert f'{metric}{{worker="{worker}"}} ' in page


def test_of_a_process_that_ended_only_what_it_counted_stays():
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    past = lasting((*process(calls=3, took=[5], sum=7, max=7), *of_process(taken(registry), "1")))
    assert {family.name for family in past} == {"calls", "took_seconds"}


def test_a_report_is_the_same_after_it_was_sent():
    report = process(calls=3, took=[0.5], sum=1, max=math.inf)
    assert from_json(json.loads(json.dumps(as_json(report)))) == report
