"""Compares NeuCF with tuned and untuned baselines on one evaluation split."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Protocol

import numpy as np

from animora_training.data.dataset import BoolArray, Dataset, IntArray
from animora_training.evaluation.baselines import HeuristicBaseline, PopularityBaseline
from animora_training.evaluation.bootstrap import Difference, paired_bootstrap
from animora_training.evaluation.budget import Budget
from animora_training.evaluation.calibration import Calibration
from animora_training.evaluation.evaluation_result import EvaluationResult, evaluate, evaluate_likes
from animora_training.evaluation.evaluation_split import EvaluationSplit
from animora_training.evaluation.recipe import Recipe
from animora_training.evaluation.recipes import RECIPES
from animora_training.evaluation.recommender import Recommender, WithFallback
from animora_training.evaluation.tuning import Attempt, hold_out, tune

NEUCF = "NeuCF"
CHOSEN_BY = "ndcg@10"


class KnowsUsers(Recommender, Protocol):
    """A recommender that knows only some users."""

    def knows(self, users: IntArray) -> BoolArray:
        """Bool (m): which users (indices) the recommender was trained on."""
        ...


@dataclass(frozen=True, slots=True)
class Tuning:
    """Settings for tuning the baselines.

    Attributes:
        recipes: The recipes to tune.
        budget: Budget for each recipe.
        seed: Seed of the hold-out and of every fit.
    """

    recipes: tuple[Recipe, ...] = RECIPES
    budget: Budget = field(default_factory=Budget)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """Results of all recommenders on one split.

    Attributes:
        split: The split.
        results: NeuCF's result first, then those of the tuned baselines, the heuristic and popularity.
        likes: Calibration of NeuCF's probabilities.
        tuned: The chosen attempt of each tuned baseline, by name.
        left_out: Reasons for missing baselines, by name.
    """

    split: EvaluationSplit
    results: tuple[EvaluationResult, ...]
    likes: Calibration
    tuned: dict[str, Attempt]
    left_out: dict[str, str]

    @property
    def best_baseline(self) -> EvaluationResult:
        """The baseline with the highest sampled NDCG@10; chosen on the test pairs, which favours it."""
        return max(self.results[1:], key=lambda result: result.means()["sampled"][CHOSEN_BY])

    def difference(self, kind: str, measure: str, other: EvaluationResult) -> Difference:
        """Bootstrapped difference of NeuCF minus another; kind is "sampled", "expected" or "full"."""
        first: Mapping[str, np.ndarray] = getattr(self.results[0], kind)
        second: Mapping[str, np.ndarray] = getattr(other, kind)
        return paired_bootstrap(first[measure], second[measure])

    def as_json(self) -> dict[str, object]:
        """The comparison as plain values, for a JSON file.

        "rows" has the sampled NDCG@10 of each row, so that another recommender can be compared in a paired
        bootstrap.
        """
        differences = {
            result.name: {
                kind: {
                    measure: asdict(self.difference(kind, measure, result))
                    for measure in ("hr@10", CHOSEN_BY)
                }
                for kind in ("sampled", "expected", "full")
            }
            for result in self.results[1:]
        }
        groups = {name: rows for name, rows in self.split.groups().items() if rows.any()}
        return {
            "exam": self.split.name,
            "users": len(self.split.task.users),
            "dropped": self.split.dropped,
            "mean_candidates": self.split.sampled.mean_candidates,
            "relevant": len(self.split.task.relevant[0]),
            "groups": {name: int(rows.sum()) for name, rows in groups.items()},
            "recommenders": {
                result.name: {
                    **result.means(),
                    "overall_auc": result.overall_auc,
                    "lists": asdict(result.lists),
                    "groups": {name: result.means(rows) for name, rows in groups.items()},
                }
                for result in self.results
            },
            "rows": {result.name: result.sampled[CHOSEN_BY].round(6).tolist() for result in self.results},
            "best_baseline": self.best_baseline.name,
            "neucf_minus": differences,
            "calibration": {
                name: value.tolist() if isinstance(value, np.ndarray) else value
                for name, value in asdict(self.likes).items()
            },
            "tuned": {name: asdict(attempt) for name, attempt in self.tuned.items()},
            "left_out": self.left_out,
        }


def compare(
    dataset: Dataset,
    split: EvaluationSplit,
    neucf: KnowsUsers,
    tuning: Tuning,
    on_attempt: Callable[[Attempt], None],
) -> Comparison:
    """Evaluates NeuCF and the baselines, each tuned on a hold-out from the split's training data.

    The heuristic ranks for users that a recommender does not know, as in the server.

    Args:
        dataset: The data set of the split.
        split: The evaluation split.
        neucf: NeuCF, trained on the split's training pairs only.
        tuning: Settings for tuning the baselines.
        on_attempt: Called with each attempt.
    """
    posts = dataset.posts
    heuristic = HeuristicBaseline(posts, split.events, split.moments)
    known = np.diff(split.training.offsets) > 0
    usable = [recipe for recipe in tuning.recipes if not _too_many(recipe, len(posts.ids))]
    data = hold_out(dataset, split.training, tuning.seed)
    tuned = tune(usable, data, split.training, tuning.budget, tuning.seed, on_attempt)
    recommenders: dict[str, Recommender] = {
        NEUCF: WithFallback(neucf.knows(np.arange(len(dataset.user_ids))), neucf, heuristic),
        **{one.best.name: WithFallback(known, one.recommender, heuristic) for one in tuned},
        "heuristic": heuristic,
        "popularity": PopularityBaseline(posts, split.events),
    }
    results = tuple(evaluate(name, recommender, split, dataset) for name, recommender in recommenders.items())
    return Comparison(
        split=split,
        results=results,
        likes=evaluate_likes(results[0], split),
        tuned={one.best.name: one.best for one in tuned},
        left_out={
            recipe.name: _too_many(recipe, len(posts.ids))
            for recipe in tuning.recipes
            if recipe not in usable
        },
    )


def _too_many(recipe: Recipe, posts: int) -> str:
    """The reason why a recipe is left out for too many posts; empty if it is not."""
    if recipe.max_posts is None or posts <= recipe.max_posts:
        return ""
    return f"{posts:,} posts; above {recipe.max_posts:,} it would take too much memory and time"
