"""Samples negatives: posts that a user could have seen but never interacted with."""

from collections.abc import Iterator

import numpy as np

from animora_training.data.dataset import (
    ABSENT,
    ROWS_AT_ONCE,
    Blocking,
    BoolArray,
    Dataset,
    DoubleArray,
    IntArray,
    Interactions,
    index_of,
)

MAX_ROUNDS = 20


def draw_negatives(
    dataset: Dataset, users: IntArray, times: DoubleArray, count: int, rng: np.random.Generator
) -> IntArray:
    """Samples distinct posts for each user, without an interaction, by rejection.

    Uniform over the live posts that existed at the moment (see `first_seen`) and that no block hides.

    Args:
        dataset: All interactions.
        users: int64 (m), indices of users; repetitions are allowed.
        times: float64 (m), the moment for each, seconds since the epoch.
        count: Number of negatives for each.
        rng: Random generator.

    Returns:
        int64 (m, count), indices into posts; padded with ABSENT if MAX_ROUNDS rounds found too few.
    """
    live = np.flatnonzero(~dataset.posts.deleted)
    seen = first_seen(dataset)[live]
    order = np.argsort(seen, kind="stable")
    live, seen = live[order], seen[order]
    existing = np.searchsorted(seen, times, side="right")  # int64 (m)
    blocking = Blocking(dataset)
    negatives = np.full((len(users), count), ABSENT, np.int64)
    for some in _slices(dataset.pairs, users, count):
        refused = _Refused(dataset, users[some], blocking)
        limits = np.broadcast_to(existing[some, None], negatives[some].shape)
        negatives[some] = _draw(live, limits, refused, rng)
    return negatives


def first_seen(dataset: Dataset) -> DoubleArray:
    """Time from which each post existed, float64 (p), seconds since the epoch.

    The creation time, or the first like or comment if earlier: after a migration, all creation times may be
    one moment later than the likes.
    """
    seen = dataset.posts.created.astype(np.float64)
    for chunk in dataset.events.chunks():
        np.minimum.at(seen, chunk.posts, chunk.times)
    return seen


class _Refused:
    """Posts that some users have interacted with, or that a block hides from them."""

    def __init__(self, dataset: Dataset, users: IntArray, blocking: Blocking) -> None:
        self._users = users
        self._blocking = blocking
        self._posts = len(dataset.posts.ids)
        starts, ends = dataset.pairs.offsets[users], dataset.pairs.offsets[users + 1]
        of_place = np.repeat(np.arange(len(users)), ends - starts)  # position in `users` of each pair's user
        skipped = starts - np.append(0, np.cumsum(ends - starts)[:-1])[: len(users)]
        pairs = dataset.pairs.posts[np.arange(len(of_place)) + skipped[of_place]]
        self._keys = np.sort(of_place * self._posts + pairs)

    def contains(self, places: IntArray, posts: IntArray) -> BoolArray:
        """Bool (n): whether posts int64 (n) are excluded for the users at positions int64 (n)."""
        touched: BoolArray = index_of(places * self._posts + posts, self._keys) != ABSENT
        return touched | self._blocking.hides(self._users[places], posts)


def _draw(live: IntArray, limits: IntArray, refused: _Refused, rng: np.random.Generator) -> IntArray:
    """Samples posts int64 (m, count), each from the first `limits` (m, count) live posts."""
    negatives = np.full(limits.shape, ABSENT, np.int64)
    places = np.broadcast_to(np.arange(len(limits))[:, None], limits.shape)
    wanted = limits > 0
    for _ in range(MAX_ROUNDS):
        if not wanted.any():
            break
        drawn = live[rng.integers(0, limits[wanted])]
        negatives[wanted] = np.where(refused.contains(places[wanted], drawn), ABSENT, drawn)
        negatives = without_repeats(negatives)
        wanted = (negatives == ABSENT) & (limits > 0)
    return negatives


def _slices(pairs: Interactions, users: IntArray, count: int) -> Iterator[slice]:
    """Slices of users whose candidates and interactions fit into memory."""
    work = np.cumsum(np.maximum(pairs.offsets[users + 1] - pairs.offsets[users], count))
    start = 0
    while start < len(users):
        done = work[start - 1] if start else 0
        end = max(int(np.searchsorted(work, done + ROWS_AT_ONCE, side="right")), start + 1)
        yield slice(start, end)
        start = end


def without_repeats(rows: IntArray) -> IntArray:
    """Rows (m, k) with repeated entries of a row set to ABSENT."""
    order = np.argsort(rows, axis=1, kind="stable")
    ordered = np.take_along_axis(rows, order, axis=1)
    repeated = np.zeros(rows.shape, np.bool_)
    np.put_along_axis(repeated, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return np.where(repeated, ABSENT, rows)
