"""Metrics of all recommended lists: catalog coverage, concentration and popularity bias."""

import math
from dataclasses import dataclass

import numpy as np

from animora_training.data.dataset import ABSENT, BoolArray, DoubleArray, IntArray, Interactions
from animora_training.evaluation.full_ranking import CatalogRanks
from animora_training.evaluation.task import RankingTask


@dataclass(frozen=True, slots=True)
class ListMeasures:
    """Metrics of the users' first ten posts.

    Attributes:
        coverage: Share of the eligible posts that occur in a list.
        gini: Gini coefficient of the posts' occurrences: 0 if all occur equally often, 1 if only one occurs.
        popularity: Mean popularity percentile of the listed posts, mean over users; 1 is the most popular.
        history_popularity: The same for the posts that these users liked in training; NaN without likes.
    """

    coverage: float
    gini: float
    popularity: float
    history_popularity: float


def list_measures(task: RankingTask, ranks: CatalogRanks, training: Interactions) -> ListMeasures:
    """Computes the list metrics of a full ranking (Abdollahpouri et al. 2019).

    A post's popularity is its number of training pairs; its percentile is the share of eligible posts with
    fewer pairs, plus half of those with equally many.

    Args:
        task: The ranking task.
        ranks: Its full ranking.
        training: The training pairs.
    """
    shown = ranks.lists[ranks.lists != ABSENT]
    times_shown = np.bincount(shown, minlength=len(task.eligible))[task.eligible]
    counts = np.bincount(training.posts, minlength=len(task.eligible))
    percentiles = popularity_percentiles(counts, task.eligible)
    rows = np.nonzero(ranks.lists != ABSENT)[0]
    liked = np.isin(training.users, task.users)
    return ListMeasures(
        coverage=float((times_shown > 0).mean()) if len(times_shown) else 0.0,
        gini=gini(times_shown),
        popularity=_mean_of_means(rows, percentiles[shown]),
        history_popularity=_mean_of_means(training.users[liked], percentiles[training.posts[liked]]),
    )


def popularity_percentiles(counts: IntArray, eligible: BoolArray) -> DoubleArray:
    """Share of eligible posts with a smaller count, half of those with an equal one added, float64 (p)."""
    ordered = np.sort(counts[eligible])
    below = np.searchsorted(ordered, counts, side="left")
    until = np.searchsorted(ordered, counts, side="right")
    percentiles: DoubleArray = (below + until) / (2.0 * max(len(ordered), 1))
    return percentiles


def gini(counts: IntArray) -> float:
    """The Gini coefficient Σ (2 i - n - 1) x_i / (n Σ x) of counts (n), ascending, i from 1; NaN of zeros."""
    total = float(counts.sum())
    if not total:
        return math.nan
    number = len(counts)
    places = 2.0 * np.arange(1, number + 1) - number - 1.0
    return float(places @ np.sort(counts)) / (number * total)


def _mean_of_means(rows: IntArray, values: DoubleArray) -> float:
    sizes = np.bincount(rows)
    present = sizes > 0
    return float((np.bincount(rows, values)[present] / sizes[present]).mean()) if len(rows) else math.nan
