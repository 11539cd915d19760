"""What is to be ranked: whose posts turned out to be relevant, and among which others they go."""

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
    """Rows of a test: a user each, that user's relevant posts, and what must not be ranked.

    Attributes:
        users: int64 (m), indices into the data set's user ids; a user may have several rows.
        relevant: Rows and their relevant posts, all eligible.
        hidden: Rows and posts that are not ranked there: touched before, or behind a block.
        eligible: bool (p), the posts that are ranked at all.
        first_seen: float64 (p), from when on each post existed.
        moments: float64 (m), posts first seen later are not ranked; inf where all are.
    """

    users: IntArray
    relevant: Pairs
    hidden: Pairs
    eligible: BoolArray
    first_seen: DoubleArray
    moments: DoubleArray


def one_each(
    dataset: Dataset, training: Interactions, relevant: Rows, moments: DoubleArray | None = None
) -> RankingTask:
    """A row for each relevant pair, in their order; what the server would never show is not to be among them.

    Ranked are the live posts that no block hides from the user, that existed at the moment, and that the
    user has no pair with, neither in training nor among the relevant.

    Args:
        dataset: Whose users, posts and blocks.
        training: What the users are known to have done.
        relevant: What is to be found (m).
        moments: float64 (m), when each is asked; by default when the relevant pair happened.
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


def several_each(
    dataset: Dataset, training: Interactions, relevant: Rows, eligible: BoolArray | None = None
) -> RankingTask:
    """A row for each user who has relevant pairs, by user, without a limit in time.

    Relevant pairs that the server would not show (deleted, behind a block) and those that are not eligible
    are left out.

    Args:
        dataset: Whose users, posts and blocks.
        training: What the users are known to have done.
        relevant: Distinct pairs that are to be found, none of them in training.
        eligible: bool (p), the posts that are ranked; by default all live ones. Deleted ones never are.
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
    # Whoever is in no block is taken for one more viewer, behind the last, without any.
    rows, hidden_authors = _gather(offsets_of(counts), blocks[:, 1], np.where(at == ABSENT, len(viewers), at))
    authors = np.unique(dataset.posts.authors)
    counts = np.bincount(np.searchsorted(authors, dataset.posts.authors), minlength=len(authors) + 1)
    at = index_of(hidden_authors, authors)
    which, posts = _gather(offsets_of(counts), by_author, np.where(at == ABSENT, len(authors), at))
    return rows[which], posts


def _gather(offsets: IntArray, values: np.ndarray, keys: IntArray) -> Pairs:
    """Rows and values[offsets[key] : offsets[key + 1]], int64 (n) each, for each key, one after the other."""
    firsts, counts = offsets[keys], offsets[keys + 1] - offsets[keys]
    rows = np.repeat(np.arange(len(keys)), counts)
    places = np.arange(len(rows)) - (np.cumsum(counts) - counts)[rows]
    return rows, values[firsts[rows] + places].astype(np.int64)


def _by_row(*parts: Pairs) -> Pairs:
    rows, posts = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(rows, kind="stable")
    return rows[order], posts[order]
