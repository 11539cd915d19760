"""Paired comparison of a network with other rankings of the same held-out pairs."""

from dataclasses import dataclass

import numpy as np

from animora_artifact.manifest import PairedDifference
from animora_training.data.dataset import BoolArray, DoubleArray, IntArray
from animora_training.evaluation.bootstrap import paired_bootstrap
from animora_training.evaluation.measures import measures_of_ranks
from animora_training.evaluation.network_ranking import TOP
from animora_training.pipeline.holdout import FitHoldOut

# With fewer pairs the confidence interval is too wide to be useful.
FEWEST_PAIRS = 30
DECIMALS = 6


@dataclass(frozen=True, slots=True)
class HeldOutRanks:
    """Ranks of a hold-out's reported pairs by a network that was not trained on them.

    Attributes:
        holdout: The hold-out; its `reported` pairs are ranked.
        ranks: int64 (m), 0 for the best.
    """

    holdout: FitHoldOut
    ranks: IntArray

    def compare(self, others: IntArray, basis: str, some: BoolArray | None = None) -> PairedDifference:
        """NDCG@10 of the network minus that of another ranking, with a bootstrap interval.

        Args:
            others: int64 (m), ranks of the same pairs by the other model.
            basis: Description of the pairs, for people.
            some: bool (m), the pairs to compare on; all by default.

        Returns:
            The difference; with `pairs=0` if there are fewer than FEWEST_PAIRS.
        """
        chosen = np.ones(len(self.ranks), np.bool_) if some is None else some
        if int(chosen.sum()) < FEWEST_PAIRS:
            return PairedDifference(pairs=0, basis=f"fewer than {FEWEST_PAIRS} pairs to compare on")
        ours, theirs = _gains(self.ranks[chosen]), _gains(others[chosen])
        found = paired_bootstrap(ours, theirs)
        return PairedDifference(
            ndcg=round(float(ours.mean()), DECIMALS),
            other=round(float(theirs.mean()), DECIMALS),
            low=round(found.low, DECIMALS),
            high=round(found.high, DECIMALS),
            pairs=found.users,
            basis=basis,
        )

    def compare_with_heuristic(self) -> PairedDifference:
        """Compares the network with the heuristic."""
        return self.compare(self.holdout.heuristic_ranks(), "held-out pairs of the fit")

    @property
    def standard_error(self) -> float:
        """Standard error of the mean NDCG@10."""
        return round(float(_gains(self.ranks).std() / np.sqrt(max(len(self.ranks), 1))), DECIMALS)


def _gains(ranks: IntArray) -> DoubleArray:
    return measures_of_ranks(ranks, (TOP,))[f"ndcg@{TOP}"]
