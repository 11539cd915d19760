"""Draws what a soak has seen: memory, latency and outcomes over time, with the events."""

from pathlib import Path

import matplotlib as mpl

from tests.soak.soak import Soaked

mpl.use("Agg")
from matplotlib import pyplot as plt  # after the choice of the backend


def draw(soaked: Soaked, path: Path) -> None:
    """Draws a picture (PNG)."""
    seconds = [sample.seconds for sample in soaked.samples]
    figure, (memory, latency, outcomes) = plt.subplots(3, 1, sharex=True, figsize=(10, 9))
    memory.plot(seconds, [sample.megabytes for sample in soaked.samples])
    memory.set(ylabel="memory (MB)", ylim=(0, None), title=f"growth after the warm-up {soaked.growth:.1%}")
    for name in ("p50", "p99"):
        latency.plot(seconds, [getattr(sample, name) for sample in soaked.samples], label=name)
    latency.set(ylabel="latency (ms)", yscale="log")
    for name in sorted(soaked.ledger.outcomes):
        counts = [sample.outcomes.get(name, 0) for sample in soaked.samples]
        outcomes.plot(
            seconds, [after - before for before, after in zip([0, *counts], counts, strict=False)], label=name
        )
    outcomes.set(ylabel="calls a sample", xlabel="seconds", yscale="symlog")
    for axes in (memory, latency, outcomes):
        for at, _ in soaked.events:
            axes.axvline(at, color="grey", alpha=0.2)
    latency.legend()
    outcomes.legend()
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
