"""Computes the statistics of a load from its records."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from animora_client.bench.checking import OK
from animora_client.bench.recorder import CallRecorder, TimeOrigin
from animora_client.ranking import CacheStatus, DegradedReason, Ranker
from animora_client.wire import CACHE_STATUSES, DEGRADED_REASONS, RANKERS

DoubleArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999, "max": 1.0}


@dataclass(frozen=True, slots=True)
class LoadTimeline:
    """The measurement in equal time slices; parallel arrays float64 (s).

    Attributes:
        width: The length of a slice in seconds.
        edges: float64 (s + 1), the bounds of the slices, in seconds from the start of the measurement.
        ok: Successful calls per second.
        failed: Failed calls per second.
        p50: Median latency in seconds of the calls that succeeded in the slice; NaN without any.
        p99: The 99th percentile likewise.
    """

    width: float
    edges: DoubleArray
    ok: DoubleArray
    failed: DoubleArray
    p50: DoubleArray
    p99: DoubleArray


@dataclass(frozen=True, slots=True)
class LoadSummary:
    """The statistics of a load, without the warm-up.

    Attributes:
        seconds: The duration of the measurement.
        calls: Calls scheduled in that time.
        ok: Successful calls among them.
        failures: Failed calls among them, by outcome.
        unsent: Scheduled calls that were never sent.
        calls_per_second: Successful calls per second.
        rankings_per_second: Correct rankings per second; a BatchRank call returns many.
        latencies: Latencies of successful calls in seconds, ascending.
        send_lags: Delays of sending against the schedule in seconds, ascending.
        rankers: Counts of rankings by ranker; `caches`, `degraded` and `model_versions` likewise.
    """

    seconds: float
    calls: int
    ok: int
    failures: Mapping[str, int]
    unsent: int
    calls_per_second: float
    rankings_per_second: float
    latencies: DoubleArray
    send_lags: DoubleArray
    rankers: Mapping[str, int]
    caches: Mapping[str, int]
    degraded: Mapping[str, int]
    model_versions: Mapping[str, int]
    timeline: LoadTimeline

    @property
    def failed(self) -> int:
        """Failed calls, including those that were never sent."""
        return self.calls - self.ok + self.unsent


def summarise(recorder: CallRecorder) -> LoadSummary:
    """Computes the statistics of the calls after the warm-up."""
    intended = np.array(recorder.intended)
    done = np.array(recorder.done)
    latencies = done - intended
    outcomes = np.array(recorder.outcomes)
    names = recorder.outcome_names
    ok = outcomes == names.index(OK) if OK in names else np.zeros(len(outcomes), np.bool_)
    measured = intended >= recorder.warmup
    in_window = (done >= recorder.warmup) & (done < recorder.elapsed)
    seconds = max(recorder.elapsed - recorder.warmup, 0.0)
    failures = np.bincount(outcomes[measured & ~ok], minlength=len(names))
    return LoadSummary(
        seconds=seconds,
        calls=int(measured.sum()),
        ok=int((measured & ok).sum()),
        failures={name: int(count) for name, count in zip(names, failures, strict=True) if count},
        unsent=recorder.unsent,
        calls_per_second=_rate(int((in_window & ok).sum()), seconds),
        rankings_per_second=_rate(int(np.array(recorder.rankings)[in_window].sum()), seconds),
        latencies=np.sort(latencies[measured & ok]),
        send_lags=np.sort((np.array(recorder.sent) - intended)[measured]),
        rankers=_count(recorder, lambda origin: RANKERS.get(origin.ranker, Ranker.OTHER)),
        caches=_count(recorder, lambda origin: CACHE_STATUSES.get(origin.cache, CacheStatus.OTHER)),
        degraded=_count(recorder, _degraded),
        model_versions=_count(recorder, lambda origin: origin.model_version),
        timeline=_timeline(done[in_window] - recorder.warmup, latencies[in_window], ok[in_window], seconds),
    )


def percentile(ascending: DoubleArray, quantile: float) -> float:
    """The smallest value that at least a share `quantile` of float64 (n) does not exceed; NaN if n is 0."""
    if not len(ascending):
        return float("nan")
    return float(ascending[max(int(np.ceil(quantile * len(ascending) - 1e-9)) - 1, 0)])


def percentiles(ascending: DoubleArray) -> dict[str, float]:
    """The reported percentiles, by name."""
    return {name: percentile(ascending, quantile) for name, quantile in QUANTILES.items()}


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0


def _count(recorder: CallRecorder, label: Callable[[TimeOrigin], str]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for origin, count in recorder.origins.items():
        counts[label(origin)] += count
    return {name: count for name, count in counts.most_common() if name}


def _degraded(origin: TimeOrigin) -> str:
    return DEGRADED_REASONS.get(origin.degraded_reason, DegradedReason.OTHER) or ""


def _timeline(done: DoubleArray, latencies: DoubleArray, ok: BoolArray, seconds: float) -> LoadTimeline:
    """Slices the calls by their end; done float64 (n), seconds from the start of the measurement."""
    slices = min(max(20, round(seconds)), 240)
    width = seconds / slices or 1.0
    of_call = np.minimum((done / width).astype(np.int64), slices - 1)
    in_slices = [np.sort(latencies[ok & (of_call == index)]) for index in range(slices)]
    return LoadTimeline(
        width=width,
        edges=np.arange(slices + 1, dtype=np.float64) * width,
        ok=np.bincount(of_call[ok], minlength=slices) / width,
        failed=np.bincount(of_call[~ok], minlength=slices) / width,
        p50=np.array([percentile(slice_, 0.5) for slice_ in in_slices]),
        p99=np.array([percentile(slice_, 0.99) for slice_ in in_slices]),
    )
