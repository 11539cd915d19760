"""How right the probabilities of a network are over all pairs that a hold-out stands for."""

from dataclasses import dataclass

import numpy as np

from animora_training.data.dataset import Dataset, DoubleArray, IntArray, Rows
from animora_training.data.split import HeldOut
from animora_training.evaluation.calibration import (
    LikeSample,
    LogitScaling,
    calibration,
    fit_scaling,
    like_sample,
)
from animora_training.evaluation.metrics import Scores
from animora_training.evaluation.network_ranking import PostScorer
from animora_training.evaluation.task import one_each
from animora_training.pipeline.record import ReliabilityBin

PAIRS_AT_ONCE = 1 << 16
# What the two numbers of a scaling are estimated by: that many pairs, each beside that many of its negatives.
CALIBRATING_PAIRS = 4_000
CALIBRATING_NEGATIVES = 100


@dataclass(frozen=True, slots=True)
class Likelihoods:
    """How right probabilities are over all pairs of the users who report and the posts of their moments.

    Attributes:
        error: Expected calibration error.
        reliability: In bins of equal weight.
    """

    error: float
    reliability: tuple[ReliabilityBin, ...]

    @classmethod
    def of(cls, sample: LikeSample) -> "Likelihoods":
        """Of log odds."""
        likes = calibration(sample)
        bins = zip(likes.predicted.tolist(), likes.observed.tolist(), likes.mass.tolist(), strict=True)
        return cls(
            likes.error,
            tuple(
                ReliabilityBin(predicted=predicted, observed=observed, count=round(mass))
                for predicted, observed, mass in bins
            ),
        )


@dataclass(frozen=True, slots=True)
class Represented:
    """Held-out pairs, and how many pairs of their users and of the posts of their moments they stand for.

    Attributes:
        held_out: The pairs, m of them, each beside its negatives.
        liked: float64 (m), how many likes a pair stands for.
        untouched: float64 (m), how many posts that its user has not touched its negatives stand for.
    """

    held_out: HeldOut
    liked: DoubleArray
    untouched: DoubleArray

    @classmethod
    def of(cls, dataset: Dataset, held_out: HeldOut) -> "Represented":
        """Counts in a data set, which takes a pass over the pairs of the users."""
        liked = np.diff(dataset.pairs.offsets)[held_out.users]
        pieces = np.cumsum(liked) // PAIRS_AT_ONCE
        none = np.empty(0, np.int64)
        untouched = [_untouched(dataset, held_out.take(pieces == piece)) for piece in np.unique(pieces)]
        rows = np.bincount(held_out.users)[held_out.users]  # which stand together for all that a user likes
        return cls(held_out, liked / rows, np.concatenate((none, *untouched)) / rows)

    @classmethod
    def calibrating(cls, dataset: Dataset, choosing: HeldOut) -> "Represented":
        """Some of the pairs that choose, as many as the two numbers of a scaling need."""
        some = np.arange(0, len(choosing.users), -(-len(choosing.users) // CALIBRATING_PAIRS))
        return cls.of(dataset, choosing.take(some).beside_at_most(CALIBRATING_NEGATIVES))

    def sample(self, scores: Scores) -> LikeSample:
        """Log odds (m, 1 + k) of the candidates, weighted. Raises NotFinite."""
        return like_sample(scores, self.held_out, self.liked, self.untouched)

    def scaling(self, scorer: PostScorer) -> LogitScaling:
        """What makes a network's probabilities right for these pairs. Raises NotFinite."""
        return fit_scaling(self.sample(scorer.candidates(self.held_out)))


def _untouched(dataset: Dataset, held_out: HeldOut) -> IntArray:
    """How many posts of the moment each user has nothing to do with, int64 (m)."""
    relevant = Rows(held_out.users, held_out.candidates[:, 0], held_out.times)
    task = one_each(dataset, dataset.pairs, relevant)
    existing = np.searchsorted(np.sort(task.first_seen[task.eligible]), task.moments, side="right")
    rows, hidden = task.hidden
    countable = task.eligible[hidden] & (task.first_seen[hidden] <= task.moments[rows])
    distinct = np.unique(dataset.pair_keys(rows[countable], hidden[countable]))
    counts: IntArray = existing - np.bincount(distinct // len(dataset.posts.ids), minlength=len(existing))
    return counts
