"""Evaluation on new users: rankings for users without training data, after their first interactions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from animora_training.data.dataset import Dataset, DoubleArray, IntArray, Interactions, Rows
from animora_training.errors import NothingToLearn
from animora_training.evaluation.full_ranking import rank_catalog
from animora_training.evaluation.measures import full_measures
from animora_training.evaluation.metrics import Scores
from animora_training.evaluation.recommender import Recommender
from animora_training.evaluation.task import RankingTask, task_by_pair

SHARE = 0.1  # share of the users that are held out
AFTER = (1, 3, 5, 10)  # numbers of interactions after which the next one is to be found

NewUserMeasures = dict[str, dict[int, DoubleArray]]
"""By recommender and number of interactions: full NDCG@10 of each new user's next post, float64 (m)."""


class ScoresHistories(Protocol):
    """Scores posts from the posts of a history alone, whichever user has it."""

    def scores(self, histories: Sequence[IntArray]) -> Scores:
        """Floating (m, p): scores of all posts for each history, int64 (n) with the oldest post first."""
        ...


@dataclass(frozen=True, slots=True)
class NewUserSplit:
    """Users held out whole, and their first pairs.

    Attributes:
        dataset: All data.
        users: int64 (m), ascending, the new users.
        first: int64 (m, 1 + the largest of AFTER), positions of their first pairs among the data set's,
            oldest first; pairs with deleted or blocked posts are left out.
    """

    dataset: Dataset
    users: IntArray
    first: IntArray

    def known(self, after: int = 0) -> Interactions:
        """The pairs of all other users, and the first `after` pairs of each new user."""
        pairs = self.dataset.pairs
        kept = ~np.isin(pairs.users, self.users)
        kept[self.first[:, :after]] = True
        return pairs.take(kept)

    def histories(self, after: int) -> list[IntArray]:
        """The first `after` posts of each new user, int64 (after), oldest first."""
        return list(self.dataset.pairs.posts[self.first[:, :after]].astype(np.int64))

    def task(self, after: int) -> RankingTask:
        """Each new user's next pair, to be ranked among all live posts less the first `after` ones."""
        pairs, at = self.dataset.pairs, self.first[:, after]
        relevant = Rows(self.users, pairs.posts[at].astype(np.int64), pairs.times[at])
        return task_by_pair(self.dataset, self.known(after), relevant, np.full(len(self.users), np.inf))


@dataclass(frozen=True, slots=True)
class IgnoresHistory:
    """Gives everybody the scores that a recommender gives the first user, as popularity does."""

    recommender: Recommender

    def scores(self, histories: Sequence[IntArray]) -> Scores:
        """See ScoresHistories."""
        return self.recommender.catalog(np.zeros(len(histories), np.int64))


@dataclass(frozen=True, slots=True)
class _ByHistory:
    """A Recommender for the new users (m), ascending, by their histories."""

    model: ScoresHistories
    users: IntArray
    histories: list[IntArray]

    def grid(self, users: IntArray, posts: IntArray) -> Scores:
        scores: Scores = np.take_along_axis(self.catalog(users), posts, axis=1)
        return scores

    def catalog(self, users: IntArray) -> Scores:
        return self.model.scores([self.histories[row] for row in np.searchsorted(self.users, users)])


def hold_out_users(dataset: Dataset, rng: np.random.Generator, share: float = SHARE) -> NewUserSplit:
    """Holds out a random share of the users whole, of those with more pairs than the largest of AFTER.

    So all numbers of interactions are measured on the same users. Pairs of one time are in a random order.

    Raises:
        NothingToLearn: There are no such users, or no others.
    """
    pairs, most = dataset.pairs, max(AFTER) + 1
    users = pairs.users
    shown = ~dataset.posts.deleted[pairs.posts] & ~dataset.blocked(users, pairs.posts)
    order = np.lexsort((rng.random(len(pairs)), pairs.times, users))
    order = order[shown[order]]
    places = np.arange(len(order)) - np.searchsorted(users[order], users[order])
    long_enough = users[order[places == most - 1]]
    count = round(share * len(long_enough))
    if not 0 < count < len(dataset.user_ids):
        raise NothingToLearn(f"too few users have {most} likes or comments on posts that are shown to them")
    new = np.sort(rng.choice(long_enough, count, replace=False))
    chosen = np.isin(users[order], new) & (places < most)
    return NewUserSplit(dataset, new, order[chosen].reshape(count, most))


def evaluate_new_users(
    split: NewUserSplit,
    models: Mapping[str, ScoresHistories],
    refits: Mapping[str, Callable[[Interactions], Recommender]],
) -> NewUserMeasures:
    """Ranks each new user's next post after 1, 3, 5 and 10 interactions, among all posts.

    Args:
        split: The split.
        models: By name, models that were trained on `split.known()`.
        refits: By name, functions that fit a recommender on all pairs known by then, those of the new users
            included: what waiting for the next training would give.
    """
    found: NewUserMeasures = {name: {} for name in (*models, *refits)}
    for after in AFTER:
        task, histories = split.task(after), split.histories(after)
        recommenders: dict[str, Recommender] = {
            **{name: _ByHistory(model, split.users, histories) for name, model in models.items()},
            **{name: refit(split.known(after)) for name, refit in refits.items()},
        }
        for name, recommender in recommenders.items():
            ranks = rank_catalog(recommender, task, split.dataset.posts, length=0)
            found[name][after] = full_measures(ranks)["ndcg@10"]
    return found
