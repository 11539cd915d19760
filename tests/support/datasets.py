"""Small data sets."""

import numpy as np
import torch

from animora_artifact import Vocabulary
from animora_training.data.dataset import (
    Dataset,
    IntArray,
    Interactions,
    Posts,
    Rows,
    collect,
    index_of,
    latest_of_each,
)
from animora_training.importers.feed import ImportFeed
from animora_training.importers.sample import SampleSize
from animora_training.importers.sample_activity import make_feed
from animora_training.modeling.training_set import TrainingSet

NOW = 1_800_000_000.0
TINY = SampleSize(users=60, posts=150, pairs=900, days=30.0, width=24)


def tiny_feed(seed: int = 0) -> ImportFeed:
    return make_feed(TINY, seed, NOW)


def as_dataset(feed: ImportFeed) -> Dataset:
    """The content of the views for a feed."""
    posts = Posts(
        ids=feed.posts.ids,
        authors=feed.posts.authors,
        created=feed.posts.created,
        deleted=~np.isnan(feed.posts.deleted),
        image=feed.posts.image.astype(np.float16),
        caption=feed.posts.caption.astype(np.float16),
    )
    users = np.concatenate((feed.likes.users, feed.comments.users))
    liked = np.concatenate((feed.likes.posts, feed.comments.posts))
    times = np.concatenate((feed.likes.times, feed.comments.times))
    blocks = np.stack((feed.blocks.blockers, feed.blocks.blocked), axis=1)
    rows = Rows(index_of(users, feed.user_ids), index_of(liked, posts.ids), times)
    return assemble(feed.user_ids, posts, rows, np.unique(np.concatenate((blocks, blocks[:, ::-1])), axis=0))


def assemble(user_ids: IntArray, posts: Posts, rows: Rows, blocks: IntArray) -> Dataset:
    """A data set in memory, from events in any order."""
    ordered = rows.take(np.lexsort((rows.posts, rows.times, rows.users)))
    return Dataset(
        user_ids=user_ids,
        posts=posts,
        events=collect([ordered], len(user_ids)),
        pairs=collect([latest_of_each(ordered, len(posts.ids))], len(user_ids)),
        blocks=blocks,
    )


def dataset(
    events: list[tuple[int, int, float]],
    *,
    users: int = 4,
    posts: int = 6,
    deleted: tuple[int, ...] = (),
    blocks: tuple[tuple[int, int], ...] = (),
) -> Dataset:
    """Events (user id, post id, time) of users 10, 20, … and posts 100, 200, …, post n created at second n.

    Post n is by the n-th user, as far as there are as many.
    """
    user_ids, post_ids = np.arange(1, users + 1) * 10, np.arange(1, posts + 1) * 100
    columns = np.array(events, np.float64).reshape(-1, 3)
    both = [(first, second) for pair in blocks for first, second in (pair, pair[::-1])]
    return assemble(
        user_ids,
        Posts(
            ids=post_ids,
            authors=user_ids[np.minimum(np.arange(posts), users - 1)],
            created=np.arange(1.0, posts + 1),
            deleted=np.isin(post_ids, deleted),
            image=np.eye(posts, 3, dtype=np.float16),
            caption=np.eye(posts, 2, dtype=np.float16),
        ),
        Rows(
            index_of(columns[:, 0].astype(np.int64), user_ids),
            index_of(columns[:, 1].astype(np.int64), post_ids),
            columns[:, 2],
        ),
        np.array(both, np.int64).reshape(-1, 2),
    )


def triples(interactions: Interactions | Rows) -> list[tuple[int, int, float]]:
    """Indices and times, in order."""
    return list(
        zip(
            interactions.users.tolist(), interactions.posts.tolist(), interactions.times.tolist(), strict=True
        )
    )


def many_users(users: int, posts: int) -> TrainingSet:
    """Each has one positive; posts show nothing."""
    nothing = torch.zeros(posts + 1, 0, dtype=torch.float16)
    return TrainingSet(
        vocabulary=Vocabulary(np.arange(users), np.arange(posts)),
        offsets=torch.arange(-1, users + 1).clamp(min=0),
        posts=(1 + torch.arange(users) % posts).int(),
        negatives=torch.arange(1, posts + 1),
        counts=torch.full((posts + 1,), users // posts),
        image=nothing,
        caption=nothing,
    )
