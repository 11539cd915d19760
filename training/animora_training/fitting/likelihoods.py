"""How right the probabilities of a network are over all pairs that a hold-out stands for."""

from dataclasses import dataclass

import numpy as np

from animora_training.data.dataset import Dataset, IntArray, Rows
from animora_training.data.split import HeldOut
from animora_training.fitting.record import ReliabilityBin
from animora_training.judging.calibration import (
    LikeSample,
    LogitScaling,
    calibration,
    fit_scaling,
    like_sample,
)
from animora_training.judging.evaluation import PostScorer
from animora_training.judging.metrics import Scores
from animora_training.judging.task import one_each

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


def scaling_by(dataset: Dataset, scorer: PostScorer, choosing: HeldOut) -> LogitScaling:
    """What makes a network's probabilities right, by some of the pairs that choose.

    Raises:
        NotFinite: The network's scores are not finite.
    """
    some = np.arange(0, len(choosing.users), -(-len(choosing.users) // CALIBRATING_PAIRS))
    held_out = choosing.take(some).beside_at_most(CALIBRATING_NEGATIVES)
    return fit_scaling(likes_of(dataset, scorer.candidates(held_out), held_out))


def likes_of(dataset: Dataset, scores: Scores, held_out: HeldOut) -> LikeSample:
    """Log odds (m, 1 + k) that stand for all pairs of the users and the posts of their moments."""
    liked = np.diff(dataset.pairs.offsets)[held_out.users]
    pieces = np.cumsum(liked) // PAIRS_AT_ONCE
    untouched = [_untouched(dataset, held_out.take(pieces == piece)) for piece in np.unique(pieces)]
    rows = np.bincount(held_out.users)[held_out.users]  # which stand together for all that a user likes
    return like_sample(scores, held_out, liked / rows, np.concatenate(untouched) / rows)


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
