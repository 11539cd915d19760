"""Ranking tasks: relevant posts of each row, and the posts that they are ranked among."""

from dataclasses import dataclass

import numpy as np

from animora_training.data.candidates import first_seen
from animora_training.data.dataset import (
    ABSENT,
    BoolArray,
    Dataset,
    DoubleArray,
    IntArray,
    Interactions,
    Rows,
    index_of,
    offsets_of,
)

Pairs = tuple[IntArray, IntArray]
"""Rows of a task int64 (n), ascending, and a post int64 (n) for each."""


@dataclass(frozen=True, slots=True)
class RankingTask:
    """A ranking task; each row is a user at a moment.

    Attributes:
        users: int64 (m), indices of users; a user may have several rows.
        relevant: Relevant posts by row; all are eligible.
        hidden: Posts that are not ranked, by row: with an earlier interaction, or blocked.
        eligible: bool (p), the posts that are ranked.
        first_seen: float64 (p), time from which each post existed.
        moments: float64 (m), posts first seen later are not ranked; inf for no limit.
    """

    users: IntArray
    relevant: Pairs
    hidden: Pairs
    eligible: BoolArray
    first_seen: DoubleArray
    moments: DoubleArray


def task_by_pair(
    dataset: Dataset, training: Interactions, relevant: Rows, moments: DoubleArray | None = None
) -> RankingTask:
    """Makes a task with a row for each relevant pair, in the given order.

    Each relevant post is ranked among the live posts that are not blocked, existed at the moment, and have no
    pair with the user in training or among the relevant ones. The relevant posts must be live and not
    blocked.

    Args:
        dataset: Users, posts and blocks.
        training: Training pairs.
        relevant: The m relevant pairs.
        moments: float64 (m), the moment of each row; by default the time of the pair.
    """
    by_user = np.argsort(relevant.users, kind="stable")
    counts = np.bincount(relevant.users, minlength=len(dataset.user_ids))
    wanted = _gather(offsets_of(counts), relevant.posts[by_user], relevant.users)
    return RankingTask(
        users=relevant.users,
        relevant=(np.arange(len(relevant)), relevant.posts),
        hidden=_by_row(wanted, _touched(training, relevant.users), _blocked(dataset, relevant.users)),
        eligible=~dataset.posts.deleted,
        first_seen=first_seen(dataset),
        moments=relevant.times if moments is None else moments,
    )


def task_by_user(
    dataset: Dataset, training: Interactions, relevant: Rows, eligible: BoolArray | None = None
) -> RankingTask:
    """Makes a task with a row for each user who has relevant pairs, without a moment.

    Relevant pairs with a deleted, blocked or ineligible post are left out.

    Args:
        dataset: Users, posts and blocks.
        training: Training pairs.
        relevant: Distinct relevant pairs, none of them in training.
        eligible: bool (p), the posts to rank, of which deleted ones are left out; all by default.
    """
    live = ~dataset.posts.deleted
    ranked = live if eligible is None else live & eligible
    shown = relevant.take(ranked[relevant.posts] & ~dataset.blocked(relevant.users, relevant.posts))
    order = np.lexsort((shown.posts, shown.users))
    users, rows = np.unique(shown.users[order], return_inverse=True)
    return RankingTask(
        users=users,
        relevant=(rows, shown.posts[order]),
        hidden=_by_row(_touched(training, users), _blocked(dataset, users)),
        eligible=ranked,
        first_seen=first_seen(dataset),
        moments=np.full(len(users), np.inf),
    )


def within(pairs: Pairs, some: slice) -> Pairs:
    """The pairs of some rows, the rows counted from the slice's start."""
    first, last = np.searchsorted(pairs[0], (some.start, some.stop))
    return pairs[0][first:last] - some.start, pairs[1][first:last]


def _touched(training: Interactions, users: IntArray) -> Pairs:
    return _gather(training.offsets, training.posts, users)


def _blocked(dataset: Dataset, users: IntArray) -> Pairs:
    """The posts that a block hides from each of users (m)."""
    by_author = np.argsort(dataset.posts.authors, kind="stable")
    blocks = dataset.blocks[np.argsort(dataset.blocks[:, 0], kind="stable")]
    viewers = np.unique(blocks[:, 0])
    counts = np.bincount(np.searchsorted(viewers, blocks[:, 0]), minlength=len(viewers) + 1)
    at = index_of(dataset.user_ids[users], viewers)
    # Users without blocks map to an extra viewer without entries.
    rows, hidden_authors = _gather(offsets_of(counts), blocks[:, 1], np.where(at == ABSENT, len(viewers), at))
    authors = np.unique(dataset.posts.authors)
    counts = np.bincount(np.searchsorted(authors, dataset.posts.authors), minlength=len(authors) + 1)
    at = index_of(hidden_authors, authors)
    which, posts = _gather(offsets_of(counts), by_author, np.where(at == ABSENT, len(authors), at))
    return rows[which], posts


def _gather(offsets: IntArray, values: np.ndarray, keys: IntArray) -> Pairs:
    """Rows and values[offsets[key] : offsets[key + 1]], int64 (n) each, concatenated over the keys."""
    firsts, counts = offsets[keys], offsets[keys + 1] - offsets[keys]
    rows = np.repeat(np.arange(len(keys)), counts)
    places = np.arange(len(rows)) - (np.cumsum(counts) - counts)[rows]
    return rows, values[firsts[rows] + places].astype(np.int64)


def _by_row(*parts: Pairs) -> Pairs:
    rows, posts = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(rows, kind="stable")
    return rows[order], posts[order]
