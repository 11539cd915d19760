"""A fit's network beside others on the pairs that it was judged on: who ranks the same pairs better."""

from dataclasses import dataclass

import numpy as np

from animora_artifact.manifest import PairedDifference
from animora_training.data.dataset import BoolArray, DoubleArray, IntArray
from animora_training.evaluation.bootstrap import paired_bootstrap
from animora_training.evaluation.measures import measures_of_ranks
from animora_training.evaluation.network_ranking import TOP
from animora_training.pipeline.holdout import FitHoldOut

# Of fewer pairs an interval says little.
FEWEST_PAIRS = 30
DECIMALS = 6


@dataclass(frozen=True, slots=True)
class HeldOutRanks:
    """Where a network ranks the pairs of a hold-out whose users report; it has not learnt from them.

    Attributes:
        holdout: Whose `reported` pairs.
        ranks: int64 (m), 0 for the best.
    """

    holdout: FitHoldOut
    ranks: IntArray

    def beside(self, others: IntArray, basis: str, some: BoolArray | None = None) -> PairedDifference:
        """The NDCG@10 of the network less that of another.

        Args:
            others: Ranks int64 (m) of the same pairs by the other one.
            basis: Why these pairs tell, for people.
            some: bool (m), which pairs count; by default all.
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

    def beside_heuristic(self) -> PairedDifference:
        """The network beside what serves without a model."""
        return self.beside(self.holdout.heuristic_ranks(), "held-out pairs of the fit")

    @property
    def standard_error(self) -> float:
        """Of the mean NDCG@10."""
        return round(float(_gains(self.ranks).std() / np.sqrt(max(len(self.ranks), 1))), DECIMALS)


def _gains(ranks: IntArray) -> DoubleArray:
    return measures_of_ranks(ranks, (TOP,))[f"ndcg@{TOP}"]
