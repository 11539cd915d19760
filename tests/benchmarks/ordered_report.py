"""The order-aware benchmark's figures and table."""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

from animora_training.data.dataset import DoubleArray
from animora_training.evaluation.evaluation_result import EvaluationResult
from animora_training.evaluation.network_ranking import TOP


@dataclass(frozen=True, slots=True)
class OrderedRows:
    """Metrics of the held-out pairs.

    Attributes:
        hit_ratio: float64 (m), HR@10 among the negatives.
        ndcg: float64 (m), NDCG@10 among the negatives.
        full_ndcg: float64 (m), NDCG@10 among all posts less the user's training posts.
    """

    hit_ratio: DoubleArray
    ndcg: DoubleArray
    full_ndcg: DoubleArray

    @classmethod
    def of(cls, result: EvaluationResult) -> "OrderedRows":
        """The metrics of an evaluated recommender."""
        sampled = result.sampled
        return cls(sampled[f"hr@{TOP}"], sampled[f"ndcg@{TOP}"], result.full[f"ndcg@{TOP}"])

    def quality(self) -> "OrderedQuality":
        """Means over the pairs for which each metric is defined."""
        return OrderedQuality(*(float(np.nanmean(values)) for values in astuple(self)))

    def standard_errors(self) -> "OrderedQuality":
        """Standard errors of the means over the pairs."""
        return OrderedQuality(
            *(float(np.nanstd(values) / np.sqrt(np.sum(~np.isnan(values)))) for values in astuple(self))
        )


@dataclass(frozen=True, slots=True)
class OrderedQuality:
    """HR@10 and NDCG@10 among negatives, and NDCG@10 among all posts; means over pairs."""

    hit_ratio: float
    ndcg: float
    full_ndcg: float

    @classmethod
    def of_means(cls, means: Mapping[str, Mapping[str, float]]) -> "OrderedQuality":
        """The figures of a recommender in the JSON of `animora-train compare`."""
        sampled = means["sampled"]
        return cls(sampled[f"hr@{TOP}"], sampled[f"ndcg@{TOP}"], means["full"][f"ndcg@{TOP}"])

    @classmethod
    def mean_of(cls, several: Sequence["OrderedQuality"]) -> "OrderedQuality":
        """Means over seeds."""
        return cls(*np.mean([astuple(one) for one in several], axis=0).tolist())

    def line(self) -> str:
        """As the last line of `animora-train compare --protocol latest`."""
        return (
            f"hr@{TOP}={self.hit_ratio:.4f} ndcg@{TOP}={self.ndcg:.4f} full_ndcg@{TOP}={self.full_ndcg:.4f}"
        )


def report(served: Sequence[OrderedRows], others: Mapping[str, OrderedQuality], out: Console) -> None:
    """Prints a row for each seed and each other recommender, standard errors, and last the means alone.

    Args:
        served: The server's rankings, by seed.
        others: Qualities of the others, by name.
        out: Prints.
    """
    qualities = [rows.quality() for rows in served]
    mean = OrderedQuality.mean_of(qualities)
    table = Table("", f"HR@{TOP}", f"NDCG@{TOP}", f"full NDCG@{TOP}", box=None)
    seeds = {f"NeuCF, seed {seed}": quality for seed, quality in enumerate(qualities)}
    for name, quality in {**seeds, f"NeuCF, mean of {len(served)}": mean, **others}.items():
        table.add_row(name, *(f"{value:.4f}" for value in astuple(quality)))
    out.print(table)
    out.print(f"standard errors over users, seed 0: {served[0].standard_errors().line()}")
    out.print(mean.line())
