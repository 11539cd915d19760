"""A picture of a load: latency by percentile, and throughput and latency over time."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from animora_client.bench.summary import QUANTILES, DoubleArray, Summary, Timeline, percentiles

BLUE, ORANGE, RED = "#2a6fbb", "#e08a1e", "#c0392b"


def draw(summary: Summary, title: str, path: Path) -> None:
    """Writes a PNG.

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
    """Each further nine is as wide as the one before, so that the tail can be seen."""
    axes.set(title="Latency by percentile", ylabel="ms", xscale="log")
    ticks = {0.5: "p50", 0.9: "p90", 0.99: "p99", 0.999: "p99.9", 0.9999: "p99.99"}
    axes.set_xticks([1 / (1 - share) for share in ticks], list(ticks.values()))
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    count = len(latencies)
    if not count:
        axes.text(0.5, 0.5, "no call ended well", transform=axes.transAxes, ha="center")
        return
    shares = np.arange(count) / count  # of calls that were faster
    axes.plot(1 / (1 - shares), latencies * 1000, color=BLUE)
    axes.set_ylim(bottom=0)
    for name, value in percentiles(latencies).items():
        share = QUANTILES[name]
        x = count if share == 1 else 1 / (1 - share)
        if x <= count:
            axes.annotate(
                f"{name}: {value * 1000:.2f}",
                (x, value * 1000),
                xytext=(-4, 6),
                textcoords="offset points",
                ha="right",
            )
            axes.plot(x, value * 1000, "o", color=BLUE, markersize=4)


def _draw_throughput(axes: Axes, timeline: Timeline) -> None:
    axes.set(title="Throughput", ylabel="calls/s", xlabel="seconds")
    axes.step(timeline.starts, timeline.ok, where="post", color=BLUE, label="ok")
    if timeline.failed.any():
        axes.step(timeline.starts, timeline.failed, where="post", color=RED, label="failed")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")


def _draw_latency(axes: Axes, timeline: Timeline) -> None:
    axes.set(title="Latency", ylabel="ms", xlabel="seconds")
    axes.step(timeline.starts, timeline.p50 * 1000, where="post", color=BLUE, label="p50")
    axes.step(timeline.starts, timeline.p99 * 1000, where="post", color=ORANGE, label="p99")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right")
