"""Formats the summary of a load as a table and as JSON."""

import math
from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

from animora_client.bench.summary import LoadSummary, percentiles

Option = str | int | float | None


def as_json(summary: LoadSummary, options: Mapping[str, Option]) -> dict[str, object]:
    """The summary as a JSON object; times in seconds, null without a measurement."""
    return {
        "options": dict(options),
        "measured_seconds": summary.seconds,
        "calls": summary.calls,
        "ok": summary.ok,
        "failed": summary.failed,
        "failures": dict(summary.failures),
        "unsent": summary.unsent,
        "calls_per_second": summary.calls_per_second,
        "rankings_per_second": summary.rankings_per_second,
        "latency_seconds": _or_null(percentiles(summary.latencies)),
        "send_lag_seconds": _or_null(percentiles(summary.send_lags)),
        "rankers": dict(summary.rankers),
        "caches": dict(summary.caches),
        "degraded": dict(summary.degraded),
        "model_versions": dict(summary.model_versions),
        "timeline": {
            "slice_seconds": summary.timeline.width,
            "ok_per_second": summary.timeline.ok.tolist(),
            "failed_per_second": summary.timeline.failed.tolist(),
        },
    }


def as_table(summary: LoadSummary, title: str) -> Table:
    """The summary as a table of two columns."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    table.add_row("measured", f"{summary.seconds:.1f} s")
    table.add_row(
        "throughput",
        f"{summary.calls_per_second:,.1f} calls/s, {summary.rankings_per_second:,.1f} rankings/s",
    )
    table.add_row("calls", f"{summary.ok:,} ok, {summary.failed:,} failed")
    for outcome, count in summary.failures.items():
        table.add_row("", Text(f"{count:,} {outcome}", "red"))
    if summary.unsent:
        table.add_row("", Text(f"{summary.unsent:,} never sent: too many calls in flight", "red"))
    table.add_row("latency", _milliseconds(percentiles(summary.latencies)))
    table.add_row("sent late by", _milliseconds(percentiles(summary.send_lags)))
    table.add_row("ranker", _counts(summary.rankers))
    table.add_row("cache", _counts(summary.caches))
    table.add_row("degraded", _counts(summary.degraded))
    table.add_row("model", _counts(summary.model_versions))
    return table


def _milliseconds(seconds: Mapping[str, float]) -> str:
    if math.isnan(seconds["max"]):  # no measurement
        return "-"
    return ", ".join(f"{name} {value * 1000:.2f}" for name, value in seconds.items()) + " ms"


def _counts(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    return ", ".join(f"{name} {count / total:.1%}" for name, count in counts.items()) or "-"


def _or_null(numbers: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in numbers.items()}
