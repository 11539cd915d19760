"""Posts that nobody has liked yet: are they ranked well by what they show?"""

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
from animora_training.evaluation.task import several_each

POPULARITY = "popularity"
HINDSIGHT = "popularity in hindsight"


@dataclass(frozen=True, slots=True)
class ColdSplit:
    """Pairs to train on, and those of posts that these know nothing of.

    Attributes:
        training: To train on; none is of a cold post.
        cold: bool (p), the posts that are held out whole.
        relevant: All their pairs of users whom the training pairs know.
    """

    training: Interactions
    cold: BoolArray
    relevant: Rows


@dataclass(frozen=True, slots=True)
class ColdReport:
    """How well cold posts are ranked, by whom.

    Attributes:
        posts: How many are cold.
        users: How many users have liked some of them.
        among_cold: By recommender, measures of ranking the cold posts among themselves, a row a user:
            "hr@K", "ndcg@K", "recall@K", "mrr" and "auc" of the full ranking, and with "expected " before
            them what they are among 99 sampled cold posts.
        among_all: The same, of ranking the cold posts among all posts that the user has not touched.
    """

    posts: int
    users: int
    among_cold: dict[str, Measures]
    among_all: dict[str, Measures]

    def means(self) -> dict[str, dict[str, dict[str, float]]]:
        """Means over users: "among_cold" and "among_all", by recommender, by measure; NaN of none."""
        return {
            scope: {name: means_of(measures) for name, measures in getattr(self, scope).items()}
            for scope in ("among_cold", "among_all")
        }

    def difference(self, scope: str, measure: str, name: str, other: str = POPULARITY) -> Difference:
        """One recommender minus another, users drawn again; scope is "among_cold" or "among_all"."""
        rows: dict[str, Measures] = getattr(self, scope)
        return paired_bootstrap(rows[name][measure], rows[other][measure])

    def as_json(self) -> dict[str, object]:
        """Everything as plain values, for a file."""
        return {"posts": self.posts, "users": self.users, **self.means()}


def hold_out_posts(dataset: Dataset, share: float, rng: np.random.Generator) -> ColdSplit:
    """Holds out all pairs of a random share of the live posts that have both pairs and an embedding.

    Train on the rest, as if these posts had been posted a moment ago: their ids are unknown, their image and
    caption are not.

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
    """The posts created after a share of the events, and the pairs that began then; the rest is to train on.

    Raises:
        NothingToLearn: There is no before and after, see exam.moment_of.
    """
    moment = moment_of(dataset, share)
    split = time_split(dataset, moment)
    cold = first_seen(dataset) > moment
    training = collect(split.training.chunks(), len(dataset.user_ids))
    return _of_known_users(training, cold, split.held_out.take(cold[split.held_out.posts]))


def evaluate_cold_posts(
    dataset: Dataset, split: ColdSplit, recommenders: Mapping[str, Recommender]
) -> ColdReport:
    """Ranks the cold posts for the users who turned out to like them, among themselves and among all.

    Two rows are added to those of the recommenders. "popularity" counts the training pairs: of cold posts
    there are none, so among themselves it puts the newer post first, as the server does with ties.
    "popularity in hindsight" counts all pairs, the held-out ones too, which nobody could have known.

    Args:
        dataset: With the cold posts' pairs and embeddings.
        split: What was held out.
        recommenders: By name, trained on the split's training pairs.

    Raises:
        NothingToLearn: No known user has liked one of the cold posts.
    """
    among_cold = several_each(dataset, split.training, split.relevant, split.cold)
    among_all = several_each(dataset, split.training, split.relevant)
    if not len(among_cold.users):
        raise NothingToLearn("no user with other likes has liked one of the cold posts")
    everyone = {
        **recommenders,
        POPULARITY: PopularityBaseline(dataset.posts, split.training),
        HINDSIGHT: PopularityBaseline(dataset.posts, dataset.pairs),
    }
    judged = []
    for task in (among_cold, among_all):
        rows = {}
        for name, recommender in everyone.items():
            ranks = rank_catalog(recommender, task, dataset.posts, length=0)
            expected = {f"expected {key}": values for key, values in expected_measures(ranks).items()}
            rows[name] = {**full_measures(ranks), **expected}
        judged.append(rows)
    return ColdReport(int(split.cold.sum()), len(among_cold.users), *judged)


def _of_known_users(training: Interactions, cold: BoolArray, held_out: Rows) -> ColdSplit:
    known = np.diff(training.offsets) > 0
    return ColdSplit(training, cold, held_out.take(known[held_out.users]))
