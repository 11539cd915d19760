"""All that is measured of one recommender in one exam."""

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
    """What a recommender did in an exam, a number a row of its task unless said otherwise.

    Attributes:
        name: The recommender's.
        sampled: Measures of one relevant post a row among the drawn ones.
        expected: What these would be on average over all draws, of all relevant posts.
        full: Measures among all posts, and "auc".
        overall_auc: One number: the chance that any row's relevant post is scored above any row's drawn one.
        lists: What the first ten posts of all users show.
        scores: Floating (m, 1 + k), of the drawn candidates.
        ranks: Of the full ranking.
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
        """Means over the rows, or some of them, by kind and measure; NaN of none."""
        kinds = {"sampled": self.sampled, "expected": self.expected, "full": self.full}
        return {kind: means_of(measures, rows) for kind, measures in kinds.items()}


def evaluate(
    name: str, recommender: Recommender, exam: EvaluationSplit, dataset: Dataset
) -> EvaluationResult:
    """Ranks as the exam asks, and measures."""
    drawn = exam.drawn
    scores = recommender.grid(drawn.users, np.maximum(drawn.candidates, 0))
    relevant = np.zeros(scores.shape, np.bool_)
    relevant[:, 0] = True
    ranks = rank_catalog(recommender, exam.task, dataset.posts)
    return EvaluationResult(
        name=name,
        sampled=measures_of_ranks(rank_held_out(dataset.posts, scores, drawn)),
        expected=expected_measures(ranks),
        full=full_measures(ranks),
        overall_auc=area_under_curve(scores[drawn.present], relevant[drawn.present]),
        lists=list_measures(exam.task, ranks, exam.training),
        scores=scores,
        ranks=ranks,
    )


def evaluate_likes(judgement: EvaluationResult, exam: EvaluationSplit) -> Calibration:
    """How right the probabilities are of a recommender whose scores are log odds; see like_sample."""
    untouched = judgement.ranks.irrelevant
    return calibration(like_sample(judgement.scores, exam.drawn, exam.likes, untouched))
