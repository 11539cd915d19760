"""Converts the training part of a data set in the NCF text format to a feed."""

from pathlib import Path

import numpy as np

from animora_training.data.dataset import FloatArray, IntArray
from animora_training.errors import InvalidInput
from animora_training.importers.feed import Blocks, Comments, FeedPosts, ImportFeed, Likes
from animora_training.importers.ncf_format import (
    Ratings,
    find_files,
    read_embeddings,
    read_ratings,
    read_test_pairs,
)


def read_feed(folder: Path) -> ImportFeed:
    """Reads the feed of a folder: a like for each training pair, a post for each item of any file.

    All posts have one extra user as author and the time of the first like. Of repeated ratings of a pair the
    latest counts.

    Raises:
        InvalidInput: A file is missing or invalid, or lacks the embedding of an item.
    """
    files = find_files(folder)
    train = _latest_of_each_pair(read_ratings(files.train))
    users, items = [train.users], [train.items]
    if files.test is not None:
        test = read_ratings(files.test)
        users.append(test.users)
        items.append(test.items)
    if files.negatives is not None:
        pairs = read_test_pairs(files.negatives)
        users.append(pairs.users)
        items.append(pairs.candidates[pairs.present])
    user_ids, post_ids = np.unique(np.concatenate(users)), np.unique(np.concatenate(items))
    author = np.setdiff1d(np.arange(len(user_ids) + 1), user_ids)[0]
    posts = FeedPosts(
        ids=post_ids,
        authors=np.full(len(post_ids), author),
        captions=[""] * len(post_ids),
        created=np.full(len(post_ids), train.times.min() if len(train.times) else 0.0),
        deleted=np.full(len(post_ids), np.nan),
        image=_embeddings(files.image, post_ids),
        caption=_embeddings(files.caption, post_ids),
    )
    nobody, never = np.empty(0, np.int64), np.empty(0, np.float64)
    return ImportFeed(
        user_ids=np.union1d(user_ids, author),
        posts=posts,
        likes=Likes(train.users, train.items, train.times),
        comments=Comments(nobody, nobody, never, []),
        blocks=Blocks(nobody, nobody, never),
    )


def _latest_of_each_pair(ratings: Ratings) -> Ratings:
    order = np.lexsort((ratings.times, ratings.items, ratings.users))
    users, items = ratings.users[order], ratings.items[order]
    last = (
        order[np.append((users[1:] != users[:-1]) | (items[1:] != items[:-1]), True)] if len(order) else order
    )
    return Ratings(ratings.users[last], ratings.items[last], ratings.times[last])


def _embeddings(path: Path | None, post_ids: IntArray) -> FloatArray:
    """Embeddings float32 (p, width) of the items; width 0 without a file."""
    if path is None:
        return np.zeros((len(post_ids), 0), np.float32)
    matrix = read_embeddings(path)
    outside = (post_ids < 0) | (post_ids >= len(matrix))
    if outside.any():
        raise InvalidInput(
            f"{path}: has rows for the items 0 to {len(matrix) - 1}, but item {post_ids[outside][0]} occurs"
        )
    return matrix[post_ids]
