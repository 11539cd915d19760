"""Counters exist from the start, so that an alert sees the first event as an increase."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from animora_artifact.errors import RejectionReason
from animora_server.background import BackgroundLoop
from animora_server.observability.metrics import CODES, DeviceProcessMetrics, Metrics, WorkerMetrics
from animora_server.service import METHODS, SERVICE_NAME
from animora_server.types import RankerName


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry) -> Metrics:
    metrics = Metrics(registry, SERVICE_NAME, METHODS, arms=("canary",))
    metrics.background.watch(BackgroundLoop("a-task", lambda: asyncio.sleep(0, 0.0)))
    WorkerMetrics(registry)
    DeviceProcessMetrics(registry)
    return metrics


def counters(registry: CollectorRegistry) -> dict[str, set[tuple[tuple[str, str], ...]]]:
    """The label values of each counter's series."""
    return {
        metric.name: {tuple(sorted(sample.labels.items())) for sample in metric.samples}
        for metric in registry.collect()
        if metric.type == "counter"
    }


@pytest.mark.usefixtures("metrics")
def test_every_counter_is_scraped_as_zero_before_it_is_counted(registry):
    assert [name for name, series in counters(registry).items() if not series] == []
    values = [
        sample.value for metric in registry.collect() if metric.type == "counter" for sample in metric.samples
    ]
    assert set(values) == {0.0}


def test_all_possible_labels_are_scraped_before_they_are_counted(metrics, registry):
    before = counters(registry)
    for method in METHODS:
        for code in CODES:
            metrics.calls.handled(method, code)
            metrics.ranks.request(method, code, None if code != "OK" else RankerName.NEUCF)
        metrics.ranks.request(method, "OK", RankerName.HEURISTIC)
    for reason in (*RejectionReason, "not_found", "device", "memory", "unexpected"):
        metrics.models.rejections[reason].inc()
    assert counters(registry) == before


def test_the_codes_are_those_of_grpc():
    grpc = pytest.importorskip("grpc")
    assert set(CODES) == {code.name for code in grpc.StatusCode}
