"""Evaluation on cold posts: posts without likes, ranked by their embeddings."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from animora_training.data.candidates import first_seen
from animora_training.data.dataset import BoolArray, Dataset, Interactions, Rows, collect
from animora_training.data.split import time_split
from animora_training.errors import NothingToLearn
from animora_training.evaluation.baselines import PopularityBaseline
from animora_training.evaluation.bootstrap import Difference, paired_bootstrap
from animora_training.evaluation.evaluation_split import moment_of
from animora_training.evaluation.full_ranking import rank_catalog
from animora_training.evaluation.measures import Measures, expected_measures, full_measures, means_of
from animora_training.evaluation.recommender import Recommender
from animora_training.evaluation.task import task_by_user

POPULARITY = "popularity"
HINDSIGHT = "popularity in hindsight"


@dataclass(frozen=True, slots=True)
class ColdSplit:
    """Training pairs, and held-out pairs on cold posts.

    Attributes:
        training: Training pairs; none is on a cold post.
        cold: bool (p), the cold posts.
        relevant: The held-out pairs, of users with training pairs.
    """

    training: Interactions
    cold: BoolArray
    relevant: Rows


@dataclass(frozen=True, slots=True)
class ColdReport:
    """Metrics on cold posts.

    Attributes:
        posts: Number of cold posts.
        users: Number of users who like some of them.
        among_cold: By recommender, metrics of ranking the cold posts among themselves, a row a user: "hr@K",
            "ndcg@K", "recall@K", "mrr" and "auc" of the full ranking, and, prefixed with "expected ", their
            expectation among 99 sampled cold posts.
        among_all: The same for ranking the cold posts among all posts without an interaction of the user.
    """

    posts: int
    users: int
    among_cold: dict[str, Measures]
    among_all: dict[str, Measures]

    def means(self) -> dict[str, dict[str, dict[str, float]]]:
        """Means over users by scope ("among_cold", "among_all"), recommender and metric; NaN without rows."""
        return {
            scope: {name: means_of(measures) for name, measures in getattr(self, scope).items()}
            for scope in ("among_cold", "among_all")
        }

    def difference(self, scope: str, measure: str, name: str, other: str = POPULARITY) -> Difference:
        """Bootstrapped difference of two recommenders; scope is "among_cold" or "among_all"."""
        rows: dict[str, Measures] = getattr(self, scope)
        return paired_bootstrap(rows[name][measure], rows[other][measure])

    def as_json(self) -> dict[str, object]:
        """The report as plain values, for a JSON file."""
        return {"posts": self.posts, "users": self.users, **self.means()}


def hold_out_posts(dataset: Dataset, share: float, rng: np.random.Generator) -> ColdSplit:
    """Holds out all pairs of a random share of the live posts that have likes and an embedding.

    Trained on the rest, a model sees these posts as new ones: the ids are unknown, the embeddings are known.

    Raises:
        NothingToLearn: No post can be held out.
    """
    posts = dataset.posts
    seen = np.zeros(len(posts.ids), np.bool_)
    for matrix in (posts.image, posts.caption):
        seen |= matrix.any(axis=1) if matrix.shape[1] else False
    liked = np.bincount(dataset.pairs.posts, minlength=len(posts.ids)) > 0
    candidates = np.flatnonzero(seen & liked & ~posts.deleted)
    count = min(max(round(share * len(candidates)), 1), len(candidates) - 1)
    if count < 1:
        raise NothingToLearn("fewer than two liked posts have an image or caption embedding to be ranked by")
    cold = np.zeros(len(posts.ids), np.bool_)
    cold[rng.choice(candidates, count, replace=False)] = True
    is_cold = cold[dataset.pairs.posts]
    training = dataset.pairs.take(~is_cold)
    held_out = Rows(
        dataset.pairs.users[is_cold],
        dataset.pairs.posts[is_cold].astype(np.int64),
        dataset.pairs.times[is_cold],
    )
    return _of_known_users(training, cold, held_out)


def newer_posts(dataset: Dataset, share: float) -> ColdSplit:
    """Holds out the posts created after a share of the events, with their pairs.

    Raises:
        NothingToLearn: The events cannot be split by time, see `moment_of`.
    """
    moment = moment_of(dataset, share)
    split = time_split(dataset, moment)
    cold = first_seen(dataset) > moment
    training = collect(split.training.chunks(), len(dataset.user_ids))
    return _of_known_users(training, cold, split.held_out.take(cold[split.held_out.posts]))


def evaluate_cold_posts(
    dataset: Dataset, split: ColdSplit, recommenders: Mapping[str, Recommender]
) -> ColdReport:
    """Ranks the cold posts for the users who like them, among themselves and among all posts.

    Adds two baselines. "popularity" counts training pairs: cold posts have none, so among themselves the
    newer post comes first. "popularity in hindsight" also counts the held-out pairs, an upper bound for
    popularity.

    Args:
        dataset: The whole data set.
        split: The split.
        recommenders: Recommenders by name, trained on the split's training pairs.

    Raises:
        NothingToLearn: No known user likes a cold post.
    """
    among_cold = task_by_user(dataset, split.training, split.relevant, split.cold)
    among_all = task_by_user(dataset, split.training, split.relevant)
    if not len(among_cold.users):
        raise NothingToLearn("no user with other likes has liked one of the cold posts")
    everyone = {
        **recommenders,
        POPULARITY: PopularityBaseline(dataset.posts, split.training),
        HINDSIGHT: PopularityBaseline(dataset.posts, dataset.pairs),
    }
    scopes = []
    for task in (among_cold, among_all):
        rows = {}
        for name, recommender in everyone.items():
            ranks = rank_catalog(recommender, task, dataset.posts, length=0)
            expected = {f"expected {key}": values for key, values in expected_measures(ranks).items()}
            rows[name] = {**full_measures(ranks), **expected}
        scopes.append(rows)
    return ColdReport(int(split.cold.sum()), len(among_cold.users), *scopes)


def _of_known_users(training: Interactions, cold: BoolArray, held_out: Rows) -> ColdSplit:
    known = np.diff(training.offsets) > 0
    return ColdSplit(training, cold, held_out.take(known[held_out.users]))
