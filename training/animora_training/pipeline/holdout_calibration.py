"""Calibration of a network over all user-post pairs, estimated from the sampled hold-out."""

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
from animora_training.evaluation.task import task_by_pair
from animora_training.pipeline.record import ReliabilityBin

PAIRS_AT_ONCE = 1 << 16
# Pairs, and negatives of each pair, from which slope and offset of the scaling are estimated.
SCALING_PAIRS = 4_000
SCALING_NEGATIVES = 100


@dataclass(frozen=True, slots=True)
class CalibrationSummary:
    """Calibration over all pairs of the reporting users with the posts that existed at their moments.

    Attributes:
        error: Expected calibration error.
        reliability: Reliability diagram in bins of equal weight.
    """

    error: float
    reliability: tuple[ReliabilityBin, ...]

    @classmethod
    def of(cls, sample: LikeSample) -> "CalibrationSummary":
        """Computes the calibration of weighted log odds."""
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
class WeightedHoldOut:
    """Held-out pairs with sampling weights that extrapolate to all posts of the catalog.

    Attributes:
        held_out: The m pairs, each with its negatives.
        liked: float64 (m), number of likes that the held-out post represents.
        untouched: float64 (m), number of posts without an interaction that the negatives represent.
    """

    held_out: HeldOut
    liked: DoubleArray
    untouched: DoubleArray

    @classmethod
    def of(cls, dataset: Dataset, held_out: HeldOut) -> "WeightedHoldOut":
        """Computes the weights from a data set, in one pass over the users' pairs."""
        liked = np.diff(dataset.pairs.offsets)[held_out.users]
        pieces = np.cumsum(liked) // PAIRS_AT_ONCE
        none = np.empty(0, np.int64)
        untouched = [_untouched(dataset, held_out.take(pieces == piece)) for piece in np.unique(pieces)]
        rows = np.bincount(held_out.users)[held_out.users]  # the rows of a user share the user's weight
        return cls(held_out, liked / rows, np.concatenate((none, *untouched)) / rows)

    @classmethod
    def for_scaling(cls, dataset: Dataset, selection: HeldOut) -> "WeightedHoldOut":
        """An evenly spread subset of the selection pairs, enough to fit a scaling."""
        some = np.arange(0, len(selection.users), -(-len(selection.users) // SCALING_PAIRS))
        return cls.of(dataset, selection.take(some).limit_negatives(SCALING_NEGATIVES))

    def sample(self, scores: Scores) -> LikeSample:
        """Weighted sample of the candidates' log odds (m, 1 + k). Raises NotFinite."""
        return like_sample(scores, self.held_out, self.liked, self.untouched)

    def scaling(self, scorer: PostScorer) -> LogitScaling:
        """Fits the Platt scaling of a network's logits on these pairs. Raises NotFinite."""
        return fit_scaling(self.sample(scorer.candidates(self.held_out)))


def _untouched(dataset: Dataset, held_out: HeldOut) -> IntArray:
    """Number of posts without an interaction that each row's user could be shown at the moment, int64 (m)."""
    relevant = Rows(held_out.users, held_out.candidates[:, 0], held_out.times)
    task = task_by_pair(dataset, dataset.pairs, relevant)
    existing = np.searchsorted(np.sort(task.first_seen[task.eligible]), task.moments, side="right")
    rows, hidden = task.hidden
    countable = task.eligible[hidden] & (task.first_seen[hidden] <= task.moments[rows])
    distinct = np.unique(dataset.pair_keys(rows[countable], hidden[countable]))
    counts: IntArray = existing - np.bincount(distinct // len(dataset.posts.ids), minlength=len(existing))
    return counts
