"""Tunes a baseline's hyper-parameters on a hold-out from its own training data."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_matrix

from animora_training.data.dataset import Dataset, Interactions, Posts, Rows
from animora_training.data.split import hold_out_pairs, latest_pairs, pairs_of_each
from animora_training.errors import NotFinite
from animora_training.evaluation.budget import Budget
from animora_training.evaluation.full_ranking import rank_catalog
from animora_training.evaluation.measures import expected_ndcg
from animora_training.evaluation.recipe import Choice, Recipe, history_matrix
from animora_training.evaluation.recommender import Recommender
from animora_training.evaluation.task import RankingTask, task_by_user

AT_MOST = 10_000
STEPS = (2, 1)


@dataclass(frozen=True, slots=True)
class TuningHoldOut:
    """Hold-out for tuning.

    Attributes:
        histories: float32 (u, p), without the held-out pairs.
        task: Ranking task of the held-out pairs.
        posts: Posts of the data set.
    """

    histories: csr_matrix
    task: RankingTask
    posts: Posts


@dataclass(frozen=True, slots=True)
class Attempt:
    """A choice of hyper-parameters that was tried.

    Attributes:
        name: Name of the recipe.
        choice: A value for each axis.
        ndcg: Expected NDCG@10 among 99 sampled posts, mean over the hold-out's users; -inf if a score is not
            finite.
        seconds: Duration of fit and evaluation.
    """

    name: str
    choice: Choice
    ndcg: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Tuned:
    """A tuned baseline.

    Attributes:
        best: The best attempt.
        recommender: Fitted with the best choice on all training data.
    """

    best: Attempt
    recommender: Recommender


def hold_out(dataset: Dataset, training: Interactions, seed: int) -> TuningHoldOut:
    """Holds out the latest training pair of up to AT_MOST random users with several pairs.

    With fewer users several pairs of each are held out, for less variance; all users weigh the same.
    """
    known = replace(dataset, events=training, pairs=training)
    rng = np.random.default_rng(seed)
    latest = latest_pairs(known, rng, pairs_of_each(known, AT_MOST)).sample_users(AT_MOST, rng)
    split = hold_out_pairs(known, latest, 0, rng)
    held_out, remaining = split.held_out, split.training
    relevant = Rows(held_out.users, held_out.candidates[:, 0], held_out.times)
    task = task_by_user(dataset, remaining, relevant)
    moments = np.full(len(dataset.user_ids), -np.inf)
    np.maximum.at(moments, relevant.users, relevant.times)
    task = replace(task, moments=moments[task.users])
    return TuningHoldOut(history_matrix(remaining, len(dataset.posts.ids)), task, dataset.posts)


def tune(
    recipes: Sequence[Recipe],
    data: TuningHoldOut,
    training: Interactions,
    budget: Budget,
    seed: int,
    on_attempt: Callable[[Attempt], None],
) -> list[Tuned]:
    """Tunes every recipe, and fits each with its best choice on all training data.

    Args:
        recipes: The recipes.
        data: Hold-out from the training data, see hold_out.
        training: All training pairs.
        budget: Budget for each recipe.
        seed: Seed of every fit.
        on_attempt: Called with each attempt.
    """
    histories = history_matrix(training, len(data.posts.ids))
    tuned = []
    for recipe in recipes:
        best = search(recipe, data, budget, seed, on_attempt)[0]
        tuned.append(Tuned(best, recipe.fit(histories, best.choice, seed)))
    return tuned


def search(
    recipe: Recipe, data: TuningHoldOut, budget: Budget, seed: int, on_attempt: Callable[[Attempt], None]
) -> list[Attempt]:
    """Pattern search on the recipe's grid (Hooke and Jeeves 1961); returns all attempts, the best first.

    Moves along one axis at a time, first by two values, then by one. Deterministic unless the time budget
    ends it.
    """
    began = time.monotonic()
    tried: dict[tuple[int, ...], Attempt] = {}

    def score(place: tuple[int, ...]) -> float:
        if place not in tried:
            if tried and (len(tried) >= budget.attempts or time.monotonic() - began >= budget.seconds):
                return -math.inf
            choice = {axis.name: axis.values[at] for axis, at in zip(recipe.axes, place, strict=True)}
            tried[place] = _attempt(recipe, choice, data, seed)
            on_attempt(tried[place])
        return tried[place].ndcg

    place = tuple(axis.start for axis in recipe.axes)
    score(place)
    for step in STEPS:
        improved = True
        while improved:
            improved = False
            for axis in range(len(recipe.axes)):
                for direction in (step, -step):
                    while (further := _moved(recipe, place, axis, direction)) and score(further) > score(
                        place
                    ):
                        place, improved = further, True
    return sorted(tried.values(), key=lambda attempt: -attempt.ndcg)


def _attempt(recipe: Recipe, choice: Choice, data: TuningHoldOut, seed: int) -> Attempt:
    began = time.monotonic()
    recommender = recipe.fit(data.histories, choice, seed)
    try:
        ndcg = expected_ndcg(rank_catalog(recommender, data.task, data.posts, length=0))
    except NotFinite:
        ndcg = -math.inf
    return Attempt(recipe.name, choice, ndcg, time.monotonic() - began)


def _moved(recipe: Recipe, place: tuple[int, ...], axis: int, steps: int) -> tuple[int, ...] | None:
    """The grid point some steps along an axis; None outside of the grid."""
    at = place[axis] + steps
    if not 0 <= at < len(recipe.axes[axis].values):
        return None
    return (*place[:axis], at, *place[axis + 1 :])
