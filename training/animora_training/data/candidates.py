"""What a held-out post is ranked among: posts that its user could have seen but never touched."""

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
    """Distinct posts that each user could have seen at the time but never interacted with.

    Drawn uniformly from the live posts that existed by then (see `first_seen`) and that no block hides.

    Args:
        dataset: All interactions.
        users: Whom to draw for, int64 (m), indices; one may be named several times.
        times: At what moments, float64 (m), seconds since the epoch.
        count: How many for each.
        rng: The source of chance.

    Returns:
        int64 (m, count), indices into posts; ABSENT where MAX_ROUNDS of drawing found too few.
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
    """From when on each post existed, float64 (p), seconds since the epoch.

    That is its creation, or its first like or comment where that is earlier: after a migration all posts may
    have been created at one moment, later than the likes.
    """
    seen = dataset.posts.created.astype(np.float64)
    for chunk in dataset.events.chunks():
        np.minimum.at(seen, chunk.posts, chunk.times)
    return seen


class _Refused:
    """What some users have interacted with, or may not see."""

    def __init__(self, dataset: Dataset, users: IntArray, blocking: Blocking) -> None:
        self._users = users
        self._blocking = blocking
        self._posts = len(dataset.posts.ids)
        starts, ends = dataset.pairs.offsets[users], dataset.pairs.offsets[users + 1]
        of_place = np.repeat(np.arange(len(users)), ends - starts)  # which user, by place, a pair is of
        skipped = starts - np.append(0, np.cumsum(ends - starts)[:-1])[: len(users)]
        pairs = dataset.pairs.posts[np.arange(len(of_place)) + skipped[of_place]]
        self._keys = np.sort(of_place * self._posts + pairs)

    def contains(self, places: IntArray, posts: IntArray) -> BoolArray:
        """Bool (n): which posts int64 (n) are refused for the users at places int64 (n)."""
        touched: BoolArray = index_of(places * self._posts + posts, self._keys) != ABSENT
        return touched | self._blocking.hides(self._users[places], posts)


def _draw(live: IntArray, limits: IntArray, refused: _Refused, rng: np.random.Generator) -> IntArray:
    """Posts int64 (m, count), each among the first `limits` (m, count) live ones."""
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
    """The users in pieces whose candidates and whose interactions fit into memory."""
    work = np.cumsum(np.maximum(pairs.offsets[users + 1] - pairs.offsets[users], count))
    start = 0
    while start < len(users):
        done = work[start - 1] if start else 0
        end = max(int(np.searchsorted(work, done + ROWS_AT_ONCE, side="right")), start + 1)
        yield slice(start, end)
        start = end


def without_repeats(rows: IntArray) -> IntArray:
    """The rows (m, k) with all but the first of equal entries in a row set to ABSENT."""
    order = np.argsort(rows, axis=1, kind="stable")
    ordered = np.take_along_axis(rows, order, axis=1)
    repeated = np.zeros(rows.shape, np.bool_)
    np.put_along_axis(repeated, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return np.where(repeated, ABSENT, rows)
