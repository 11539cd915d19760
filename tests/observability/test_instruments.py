import threading
import tracemalloc

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from animora_server.observability.instruments import FOLD_AT, Counter, Gauge, Histogram, MultiprocessMode

BUCKETS = (0.00001, 0.5, 1, 20)
VALUES = [0.0, 0.00001, 0.4, 0.5, 0.75, 1.0, 19.9, 20.0, 20.1, 1e9]


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def test_a_histogram_is_exposed_as_by_prometheus_client(registry):
    theirs = CollectorRegistry()
    ours = Histogram("took_seconds", "Time.", BUCKETS, registry, ("stage",))
    reference = prometheus_client.Histogram(
        "took_seconds", "Time.", ("stage",), buckets=BUCKETS, registry=theirs
    )
    for stage in ("a", "b"):
        for value in VALUES:
            ours.labels(stage).observe(value)
            reference.labels(stage).observe(value)
    page = generate_latest(theirs).decode().splitlines()
    without_times_of_making = [line for line in page if "_created" not in line]
    assert generate_latest(registry).decode().splitlines() == without_times_of_making


def test_a_counter_is_exposed_as_by_prometheus_client(registry):
    theirs = CollectorRegistry()
    ours = Counter("calls", "Calls.", registry, ("method", "code"))
    reference = prometheus_client.Counter("calls", "Calls.", ("method", "code"), registry=theirs)
    for method, code in (("Rank", "OK"), ("Rank", "OK"), ("BatchRank", "INTERNAL")):
        ours.labels(method, code).inc()
        reference.labels(method, code).inc()
    ours.labels("Rank", "OK").inc(5)
    reference.labels("Rank", "OK").inc(5)
    page = generate_latest(theirs).decode().splitlines()
    assert generate_latest(registry).decode().splitlines() == [
        line for line in page if "_created" not in line
    ]


def test_a_gauge_is_exposed_as_by_prometheus_client(registry):
    theirs = CollectorRegistry()
    ours = Gauge("rows", "Rows.", MultiprocessMode.SUM, registry, ("queue",))
    reference = prometheus_client.Gauge("rows", "Rows.", ("queue",), registry=theirs)
    for gauge in (ours, reference):
        gauge.labels("never set")
        gauge.labels("set").set(7)
        gauge.labels("set again").set(1)
        gauge.labels("set again").set(float("inf"))
        gauge.labels("looked up").set_function(lambda: 3)
    assert generate_latest(registry) == generate_latest(theirs)


def test_only_replaces_all_other_series_of_a_gauge(registry):
    gauge = Gauge("active", "1 for the one that is.", MultiprocessMode.MAX, registry, ("version",))
    for version in ("v1", "v2"):
        gauge.only(version).set(1)
    page = generate_latest(registry).decode()
    assert 'active{version="v2"} 1.0' in page
    assert "v1" not in page


def test_a_histogram_without_observations_is_exposed_as_zeros(registry):
    Histogram("rows", "Rows.", (1, 10), registry).labels()
    page = generate_latest(registry).decode()
    assert 'rows_bucket{le="+Inf"} 0.0' in page
    assert "rows_count 0.0" in page


def test_pending_observations_take_bounded_memory(registry):
    observations = Histogram("rows", "Rows.", (1, 10), registry).labels()
    tracemalloc.start()
    try:
        for number in range(100_000):
            observations.observe(number + 0.5)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 40 * FOLD_AT + 32_000  # a float and its place in a list take 32 bytes
    assert observations.fold() == ([1, 10, 100_000], 100_000**2 / 2)


def test_no_observation_is_lost_or_counted_twice_during_scrapes(registry):
    observations = Histogram("rows", "Rows.", (1, 10), registry).labels()
    done = threading.Event()

    def scrape() -> None:
        while not done.is_set():
            generate_latest(registry)

    scrapers = [threading.Thread(target=scrape) for _ in range(2)]
    for scraper in scrapers:
        scraper.start()
    for _ in range(50_000):
        observations.observe(1)
    done.set()
    for scraper in scrapers:
        scraper.join()
    assert observations.fold() == ([50_000] * 3, 50_000.0)


def test_two_metrics_of_one_name_are_refused(registry):
    Histogram("rows", "Rows.", (1, 10), registry)
    with pytest.raises(ValueError, match="Duplicated"):
        Histogram("rows", "Rows.", (1, 10), registry)
