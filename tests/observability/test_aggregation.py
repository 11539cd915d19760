import json
import math

import pytest
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.registry import Collector

from animora_server.observability.aggregation import (
    collect_metrics,
    cumulative_metrics,
    from_json,
    label_process,
    merge_metrics,
    to_json,
    to_prometheus,
)
from animora_server.observability.instruments import Counter, Gauge, Histogram, MultiprocessMode
from animora_server.observability.metrics import Metrics


class Page(Collector):
    """A report as a registry shows it."""

    def __init__(self, report):
        self._report = report

    def collect(self):
        return to_prometheus(self._report)


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
        Gauge(name, "A gauge.", MultiprocessMode(name.partition("_")[0]), registry).labels().set(value)
    return collect_metrics(registry)


def test_the_merge_of_one_process_equals_its_registry():
    registry = CollectorRegistry()
    captured = Metrics(registry, "service", ("Rank",))
    captured.models.active("v1", -math.inf)  # so that its age stands still
    captured.calls.handled("Rank", "OK")
    assert text(merge_metrics([collect_metrics(registry)])) == generate_latest(registry).decode()


def test_counters_and_histograms_are_summed():
    page = text(merge_metrics([process(calls=3, took=[0.5, 20]), process(calls=4, took=[5])]))
    for line in (
        'calls_total{code="OK"} 7.0',
        'took_seconds_bucket{le="1.0"} 1.0',
        'took_seconds_bucket{le="10.0"} 2.0',
        'took_seconds_bucket{le="+Inf"} 3.0',
        "took_seconds_count 3.0",
        "took_seconds_sum 25.5",
    ):
        assert line in page.splitlines()


def test_metrics_of_a_single_process_are_kept():
    assert 'calls_total{code="OK"} 3.0' in text(merge_metrics([(), process(calls=3), ()]))


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
def test_a_gauge_is_merged_by_its_mode(rule, values, expected):
    (family,) = [
        family
        for family in merge_metrics([process(**{rule: value}) for value in values])
        if family.name == rule
    ]
    assert list(family.samples.values()) == [pytest.approx(expected, nan_ok=True)]


def test_kernel_metrics_stay_separate_per_process():
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    page = text(
        merge_metrics(
            [label_process(collect_metrics(registry), "1"), label_process(collect_metrics(registry), "2")]
        )
    )
    for metric in ("process_cpu_seconds_total", "process_resident_memory_bytes"):
        for worker in ("1", "2"):
            assert f'{metric}{{worker="{worker}"}} ' in page


def test_an_ended_process_keeps_only_its_counters_and_histograms():
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    past = cumulative_metrics(
        (*process(calls=3, took=[5], sum=7, max=7), *label_process(collect_metrics(registry), "1"))
    )
    assert {family.name for family in past} == {"calls", "took_seconds"}


def test_a_report_survives_json():
    report = process(calls=3, took=[0.5], sum=1, max=math.inf)
    assert from_json(json.loads(json.dumps(to_json(report)))) == report
