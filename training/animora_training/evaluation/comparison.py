"""NeuCF beside the baselines: all judged in one exam, those that can be tuned tuned for it."""

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
    """A recommender that can say for whom it is one."""

    def knows(self, users: IntArray) -> BoolArray:
        """Bool (m): which users, given as indices, it has learnt something about."""
        ...


@dataclass(frozen=True, slots=True)
class Tuning:
    """How the baselines are tuned.

    Attributes:
        recipes: What to tune.
        budget: For each of them.
        seed: Of the hold-out and of every fit.
    """

    recipes: tuple[Recipe, ...] = RECIPES
    budget: Budget = field(default_factory=Budget)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everybody's judgement in one exam.

    Attributes:
        exam: Of which it is.
        judgements: NeuCF's first, then the tuned baselines', then the heuristic's and popularity's.
        likes: How right NeuCF's probabilities are.
        tuned: The attempt that was chosen for each tuned baseline, by name.
        left_out: Why a baseline is missing, by name.
    """

    exam: EvaluationSplit
    judgements: tuple[EvaluationResult, ...]
    likes: Calibration
    tuned: dict[str, Attempt]
    left_out: dict[str, str]

    @property
    def best_baseline(self) -> EvaluationResult:
        """The baseline whose sampled NDCG@10 is highest: chosen on the exam itself, which favours it."""
        return max(self.judgements[1:], key=lambda judgement: judgement.means()["sampled"][CHOSEN_BY])

    def difference(self, kind: str, measure: str, other: EvaluationResult) -> Difference:
        """NeuCF minus another, users drawn again; kind is "sampled", "expected" or "full"."""
        first: Mapping[str, np.ndarray] = getattr(self.judgements[0], kind)
        second: Mapping[str, np.ndarray] = getattr(other, kind)
        return paired_bootstrap(first[measure], second[measure])

    def as_json(self) -> dict[str, object]:
        """Everything as plain values, for a file.

        "rows" has each row's sampled NDCG@10, in the order of the exam, by which another recommender can be
        set beside these in a paired bootstrap.
        """
        differences = {
            judgement.name: {
                kind: {
                    measure: asdict(self.difference(kind, measure, judgement))
                    for measure in ("hr@10", CHOSEN_BY)
                }
                for kind in ("sampled", "expected", "full")
            }
            for judgement in self.judgements[1:]
        }
        groups = {name: rows for name, rows in self.exam.groups().items() if rows.any()}
        return {
            "exam": self.exam.name,
            "users": len(self.exam.task.users),
            "dropped": self.exam.dropped,
            "mean_candidates": self.exam.drawn.mean_candidates,
            "relevant": len(self.exam.task.relevant[0]),
            "groups": {name: int(rows.sum()) for name, rows in groups.items()},
            "recommenders": {
                judgement.name: {
                    **judgement.means(),
                    "overall_auc": judgement.overall_auc,
                    "lists": asdict(judgement.lists),
                    "groups": {name: judgement.means(rows) for name, rows in groups.items()},
                }
                for judgement in self.judgements
            },
            "rows": {
                judgement.name: judgement.sampled[CHOSEN_BY].round(6).tolist()
                for judgement in self.judgements
            },
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
    exam: EvaluationSplit,
    neucf: KnowsUsers,
    tuning: Tuning,
    on_attempt: Callable[[Attempt], None],
) -> Comparison:
    """Judges NeuCF beside the baselines, each tuned on a hold-out from what the exam lets it know.

    Whoever a recommender does not know is ranked for by the heuristic, as the server would.

    Args:
        dataset: The exam's.
        exam: To be judged in.
        neucf: Trained on no more than the exam's training pairs.
        tuning: Of the baselines.
        on_attempt: Told of every attempt.
    """
    posts = dataset.posts
    heuristic = HeuristicBaseline(posts, exam.events, exam.moments)
    known = np.diff(exam.training.offsets) > 0
    usable = [recipe for recipe in tuning.recipes if not _too_many(recipe, len(posts.ids))]
    data = hold_out(dataset, exam.training, tuning.seed)
    tuned = tune(usable, data, exam.training, tuning.budget, tuning.seed, on_attempt)
    everybody: dict[str, Recommender] = {
        NEUCF: WithFallback(neucf.knows(np.arange(len(dataset.user_ids))), neucf, heuristic),
        **{one.best.name: WithFallback(known, one.recommender, heuristic) for one in tuned},
        "heuristic": heuristic,
        "popularity": PopularityBaseline(posts, exam.events),
    }
    judgements = tuple(evaluate(name, recommender, exam, dataset) for name, recommender in everybody.items())
    return Comparison(
        exam=exam,
        judgements=judgements,
        likes=evaluate_likes(judgements[0], exam),
        tuned={one.best.name: one.best for one in tuned},
        left_out={
            recipe.name: _too_many(recipe, len(posts.ids))
            for recipe in tuning.recipes
            if recipe not in usable
        },
    )


def _too_many(recipe: Recipe, posts: int) -> str:
    """Why a recipe is left out; empty where it is not."""
    if recipe.max_posts is None or posts <= recipe.max_posts:
        return ""
    return f"{posts:,} posts; above {recipe.max_posts:,} it would take too much memory and time"
