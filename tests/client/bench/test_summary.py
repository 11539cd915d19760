"""Percentiles, and the summary of recorded calls."""

import math

import numpy as np
import pytest

from animora_client.bench.checking import OK, Verdict
from animora_client.bench.output import as_json
from animora_client.bench.recorder import CallRecorder, Timing
from animora_client.bench.summary import percentile, percentiles, summarise
from animora_proto.ranking.v1 import ranking_pb2

MODEL = ranking_pb2.RankResponse(
    ranker=ranking_pb2.RANKER_NEUCF, model_version="v1", cache=ranking_pb2.CACHE_STATUS_HIT
)
FALLBACK = ranking_pb2.RankResponse(
    ranker=ranking_pb2.RANKER_HEURISTIC,
    cache=ranking_pb2.CACHE_STATUS_BYPASS,
    degraded_reason=ranking_pb2.DEGRADED_REASON_OVERLOADED,
)


@pytest.mark.parametrize(
    ("quantile", "expected"), [(0.5, 50), (0.9, 90), (0.99, 99), (0.999, 100), (1, 100), (0, 1)]
)
def test_a_percentile_is_a_measured_value(quantile, expected):
    assert percentile(np.arange(1.0, 101.0), quantile) == expected


def test_percentiles_of_no_values_are_nan():
    assert all(math.isnan(value) for value in percentiles(np.empty(0)).values())


def record(warmup=1.0, elapsed=3.0):
    recorder = CallRecorder(warmup)
    recorder.add(Timing(0.5, 0.5, 0.6), Verdict(OK, (MODEL,)))  # of the warm-up
    recorder.add(Timing(1.0, 1.1, 1.5), Verdict(OK, (MODEL, MODEL)))
    recorder.add(Timing(2.0, 2.0, 2.1), Verdict(OK, (FALLBACK, FALLBACK)))
    recorder.add(Timing(2.5, 2.5, 2.6), Verdict("UNAVAILABLE"))
    recorder.add(Timing(2.9, 2.9, 3.4), Verdict(OK, (MODEL, MODEL)))  # ends after the window
    recorder.elapsed = elapsed
    return recorder


def test_the_summary_leaves_out_the_warm_up():
    summary = summarise(record())

    assert summary.seconds == 2.0
    assert (summary.calls, summary.ok, summary.failed) == (4, 3, 1)
    assert summary.failures == {"UNAVAILABLE": 1}
    assert summary.calls_per_second == 1.0  # two ended well within two seconds
    assert summary.rankings_per_second == 2.0
    assert summary.latencies == pytest.approx([0.1, 0.5, 0.5])
    assert summary.send_lags == pytest.approx([0, 0, 0, 0.1])
    assert summary.rankers == {"neucf": 4, "heuristic": 2}
    assert summary.caches == {"hit": 4, "bypass": 2}
    assert summary.degraded == {"overloaded": 2}
    assert summary.model_versions == {"v1": 4}


def test_latency_is_measured_from_the_intended_send_time():
    recorder = CallRecorder(warmup=0)
    recorder.add(Timing(intended=1.0, sent=1.9, done=2.0), Verdict(OK, (MODEL,)))
    recorder.elapsed = 2.0

    assert summarise(recorder).latencies == pytest.approx([1.0])


def test_the_timeline_adds_up_to_the_calls_of_the_window():
    timeline = summarise(record()).timeline

    assert timeline.ok.sum() * timeline.width == pytest.approx(2)
    assert timeline.failed.sum() * timeline.width == pytest.approx(1)
    assert timeline.edges[-1] == pytest.approx(2.0)
    assert timeline.p50[5] == pytest.approx(0.5)  # the call that ended 0.5 s into 2 s of 20 slices
    assert math.isnan(timeline.p50[0])


def test_calls_that_were_never_sent_count_as_failed():
    recorder = record()
    recorder.unsent = 3

    assert summarise(recorder).failed == 4


def test_a_run_that_ends_during_warm_up_has_an_empty_summary():
    recorder = CallRecorder(warmup=1.0)
    recorder.elapsed = 0.4
    summary = summarise(recorder)

    assert (summary.calls, summary.seconds, summary.calls_per_second) == (0, 0.0, 0.0)
    assert as_json(summary, {})["latency_seconds"] == dict.fromkeys(["p50", "p90", "p99", "p99.9", "max"])
