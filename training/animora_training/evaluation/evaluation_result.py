"""Evaluation of one recommender on one split."""

from dataclasses import dataclass

import numpy as np

from animora_training.data.dataset import BoolArray, Dataset
from animora_training.evaluation.calibration import Calibration, calibration, like_sample
from animora_training.evaluation.evaluation_split import EvaluationSplit
from animora_training.evaluation.full_ranking import CatalogRanks, rank_catalog
from animora_training.evaluation.lists import ListMeasures, list_measures
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
