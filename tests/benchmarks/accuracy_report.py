"""The accuracy benchmark's table: every seed beside the baselines, with standard errors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from animora_training.data.dataset import DoubleArray, IntArray
from animora_training.evaluation.bootstrap import paired_bootstrap
from animora_training.evaluation.comparison import NEUCF
from animora_training.evaluation.network_ranking import TOP, Quality


@dataclass(frozen=True, slots=True)
class SeedResult:
    """Result of a seed.

    Attributes:
        seed: The seed.
        ranks: int64 (m), ranks of the held-out items in the server's order, 0 for the best.
        initialization: int64 (m), likewise by the network before its first step.
        seconds: Duration of the fit.
        problem: A failed check; empty without any.
    """

    seed: int
    ranks: IntArray
    initialization: IntArray
    seconds: float
    problem: str = ""

    @property
    def quality(self) -> Quality:
        """Means over all users."""
        return Quality.of(self.ranks)


@dataclass(frozen=True, slots=True)
class Baselines:
    """The baselines by `animora-train compare`, on the same pairs.

    Attributes:
        qualities: Quality by name.
        best: Name of the baseline with the best NDCG@10.
        best_rows: float64 (m), its NDCG@10 for each held-out pair.
        left_out: Reasons of missing baselines, by name.
    """

    qualities: dict[str, Quality]
    best: str
    best_rows: DoubleArray
    left_out: dict[str, str]

    @classmethod
    def of(cls, comparison: dict[str, Any]) -> "Baselines":
        """Reads the file that the command writes."""
        recommenders = comparison["recommenders"].items()
        measures = {name: values["sampled"] for name, values in recommenders if name != NEUCF}
        best = comparison["best_baseline"]
        return cls(
            qualities={
                name: Quality(values[f"hr@{TOP}"], values[f"ndcg@{TOP}"]) for name, values in measures.items()
            },
            best=best,
            best_rows=np.array(comparison["rows"][best]),
            left_out=comparison["left_out"],
        )


def report(results: Sequence[SeedResult], baselines: Baselines | None, out: Console) -> None:
    """Prints the table, then a line a seed, then mean and spread, and last the means alone."""
    beside = () if baselines is None else (f"minus {baselines.best}", "st. error", "95 % interval")
    names = ("", f"HR@{TOP}", f"NDCG@{TOP}", *beside)
    table = Table(*names, box=None)
    table.columns[0].no_wrap = True
    for result in results:
        _add(table, f"{NEUCF}, seed {result.seed}", [result.ranks], baselines)
    _add(table, f"{NEUCF}, mean of {len(results)}", [result.ranks for result in results], baselines)
    others = {f"its start, seed {result.seed}": Quality.of(result.initialization) for result in results}
    for name, quality in {**others, **(baselines.qualities if baselines else {})}.items():
        table.add_row(name, f"{quality.hit_ratio:.4f}", f"{quality.ndcg:.4f}")
    out.print(table)
    for name, why in (baselines.left_out if baselines else {}).items():
        out.print(f"{name} was left out: {why}")
    qualities = [result.quality for result in results]
    for result in results:
        out.print(f"seed {result.seed}: {line(result.quality)}")
    spread = Quality(
        float(np.std([quality.hit_ratio for quality in qualities])),
        float(np.std([quality.ndcg for quality in qualities])),
    )
    out.print(f"standard deviation over seeds: {line(spread)}")
    out.print(line(_mean(qualities)))


def line(quality: Quality) -> str:
    """The last line of `animora-train evaluate`."""
    return f"hr@{TOP}={quality.hit_ratio:.4f} ndcg@{TOP}={quality.ndcg:.4f}"


def _add(table: Table, name: str, several: Sequence[IntArray], baselines: Baselines | None) -> None:
    """A row for the mean of several rankings of the same pairs, beside the best baseline's."""
    quality = _mean([Quality.of(ranks) for ranks in several])
    figures = (f"{quality.hit_ratio:.4f}", f"{quality.ndcg:.4f}")
    if baselines is None:
        table.add_row(name, *figures)
        return
    gains = np.mean([np.where(ranks < TOP, 1 / np.log2(ranks + 2.0), 0.0) for ranks in several], axis=0)
    difference = paired_bootstrap(gains, baselines.best_rows)
    table.add_row(
        *(name, *figures, f"{difference.mean:+.4f}"),
        *(f"{difference.standard_error:.4f}", f"{difference.low:+.4f} to {difference.high:+.4f}"),
    )


def _mean(qualities: Sequence[Quality]) -> Quality:
    return Quality(
        float(np.mean([quality.hit_ratio for quality in qualities])),
        float(np.mean([quality.ndcg for quality in qualities])),
    )
