"""Plots a load: latency by percentile, and throughput and latency over time."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from animora_client.bench.summary import QUANTILES, DoubleArray, LoadSummary, LoadTimeline, percentiles

BLUE, ORANGE, RED = "#2a6fbb", "#e08a1e", "#c0392b"


def draw(summary: LoadSummary, title: str, path: Path) -> None:
    """Draws the plot to a PNG file.

    Raises:
        OSError: The file cannot be written.
    """
    figure = Figure(figsize=(9, 10), layout="constrained")
    figure.suptitle(title, fontsize="medium")
    by_percentile, throughput, latency = figure.subplots(3, 1, height_ratios=(3, 2, 2))
    _draw_percentiles(by_percentile, summary.latencies)
    _draw_throughput(throughput, summary.timeline)
    _draw_latency(latency, summary.timeline)
    figure.savefig(path, format="png", dpi=120)


def _draw_percentiles(axes: Axes, latencies: DoubleArray) -> None:
    """Each further nine is equally wide, so that the tail is visible."""
    axes.set(title="Latency by percentile", ylabel="ms", xscale="log")
    ticks = {0.5: "p50", 0.9: "p90", 0.99: "p99", 0.999: "p99.9", 0.9999: "p99.99"}
    axes.set_xticks([1 / (1 - share) for share in ticks], list(ticks.values()))
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    count = len(latencies)
    if not count:
        axes.text(0.5, 0.5, "no successful call", transform=axes.transAxes, ha="center")
        return
    shares = np.arange(count) / count  # share of faster calls
    axes.plot(1 / (1 - shares), latencies * 1000, drawstyle="steps-post", color=BLUE)
    axes.set_ylim(0, latencies[-1] * 1150)  # room for the topmost label
    for name, value in percentiles(latencies).items():
        share = QUANTILES[name]
        x = count if share == 1 else 1 / (1 - share)
        if x <= count / 2 or share == 1:  # further labels would overlap with the maximum
            axes.plot(x, value * 1000, "o", color=BLUE, markersize=4)
            label = f"{name}: {value * 1000:.2f}"
            axes.annotate(label, (x, value * 1000), (-4, 6), textcoords="offset points", ha="right")


def _draw_throughput(axes: Axes, timeline: LoadTimeline) -> None:
    axes.set(title="Throughput", ylabel="calls/s", xlabel="seconds")
    axes.stairs(timeline.ok, timeline.edges, color=BLUE, label="ok", linewidth=1.5)
    if timeline.failed.any():
        axes.stairs(timeline.failed, timeline.edges, color=RED, label="failed", linewidth=1.5)
    _style(axes, timeline)


def _draw_latency(axes: Axes, timeline: LoadTimeline) -> None:
    axes.set(title="Latency", ylabel="ms", xlabel="seconds")
    axes.stairs(timeline.p50 * 1000, timeline.edges, color=BLUE, label="p50", linewidth=1.5)
    axes.stairs(timeline.p99 * 1000, timeline.edges, color=ORANGE, label="p99", linewidth=1.5)
    _style(axes, timeline)


def _style(axes: Axes, timeline: LoadTimeline) -> None:
    axes.set_xlim(0, timeline.edges[-1])
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
