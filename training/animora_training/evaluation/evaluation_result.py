"""Evaluation of one recommender on one split."""

import math
from dataclasses import dataclass

import numpy as np

from animora_training.data.dataset import ABSENT, BoolArray, Dataset, DoubleArray, IntArray, Interactions
from animora_training.evaluation.calibration import Calibration, calibration, like_sample
from animora_training.evaluation.evaluation_split import EvaluationSplit
from animora_training.evaluation.full_ranking import CatalogRanks, rank_catalog
from animora_training.evaluation.measures import (
    Measures,
    expected_measures,
    full_measures,
    means_of,
    measures_of_ranks,
)
from animora_training.evaluation.metrics import Scores, area_under_curve
from animora_training.evaluation.network_ranking import rank_held_out
from animora_training.evaluation.recommender import Recommender
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


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """Metrics of a recommender on a split, by row of its task.

    Attributes:
        name: Name of the recommender.
        sampled: Metrics of one relevant post a row among sampled posts.
        expected: Expectation of these metrics over all samples, for all relevant posts.
        full: Metrics among all posts, and "auc".
        overall_auc: Probability that the relevant post of any row is scored above a sampled post of any row.
        lists: Metrics of the users' first ten posts.
        scores: floating (m, 1 + k), scores of the sampled candidates.
        ranks: The full ranking.
    """

    name: str
    sampled: Measures
    expected: Measures
    full: Measures
    overall_auc: float
    lists: ListMeasures
    scores: Scores
    ranks: CatalogRanks

    def means(self, rows: BoolArray | None = None) -> dict[str, dict[str, float]]:
        """Means over all or some rows, by kind and metric; NaN without rows."""
        kinds = {"sampled": self.sampled, "expected": self.expected, "full": self.full}
        return {kind: means_of(measures, rows) for kind, measures in kinds.items()}


def evaluate(
    name: str, recommender: Recommender, split: EvaluationSplit, dataset: Dataset
) -> EvaluationResult:
    """Evaluates a recommender on a split."""
    drawn = split.sampled
    scores = recommender.grid(drawn.users, np.maximum(drawn.candidates, 0))
    relevant = np.zeros(scores.shape, np.bool_)
    relevant[:, 0] = True
    ranks = rank_catalog(recommender, split.task, dataset.posts)
    return EvaluationResult(
        name=name,
        sampled=measures_of_ranks(rank_held_out(dataset.posts, scores, drawn)),
        expected=expected_measures(ranks),
        full=full_measures(ranks),
        overall_auc=area_under_curve(scores[drawn.present], relevant[drawn.present]),
        lists=list_measures(split.task, ranks, split.training),
        scores=scores,
        ranks=ranks,
    )


def evaluate_likes(result: EvaluationResult, split: EvaluationSplit) -> Calibration:
    """Calibration of a recommender whose scores are log odds; see like_sample."""
    untouched = result.ranks.irrelevant
    return calibration(like_sample(result.scores, split.sampled, split.likes, untouched))


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
