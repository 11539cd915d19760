"""What is held out of a data set: each user's latest interaction, or all that came after a moment."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from animora_training.data.candidates import draw_negatives
from animora_training.data.dataset import (
    ABSENT,
    Blocking,
    BoolArray,
    Dataset,
    DoubleArray,
    IntArray,
    Interactions,
    Rows,
    collect,
    earliest_of_each,
    latest_of_each,
)

TIMES_LOOKED_AT = 1 << 20


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Users, and what their held-out post is ranked among.

    Attributes:
        users: int64 (m), indices into the data set's user ids.
        candidates: int64 (m, 1 + k), indices into its posts; column 0 is the held-out post. ABSENT where
            there is no candidate.
        times: float64 (m), when the held-out interaction happened, in seconds since the epoch.
    """

    users: IntArray
    candidates: IntArray
    times: DoubleArray

    def take(self, chosen: IntArray | BoolArray) -> "HeldOut":
        """Those at indices, or where a mask says so."""
        return HeldOut(self.users[chosen], self.candidates[chosen], self.times[chosen])

    @property
    def present(self) -> BoolArray:
        """Bool (m, 1 + k): which candidates there are."""
        present: BoolArray = self.candidates != ABSENT
        return present


@dataclass(frozen=True, slots=True)
class Without:
    """Interactions without those at some positions, which are left out while reading.

    Attributes:
        everything: Those too.
        positions: int64 (m), ascending.
    """

    everything: Interactions
    positions: IntArray

    def __len__(self) -> int:
        return len(self.everything) - len(self.positions)

    def chunks(self) -> Iterator[Rows]:
        """The others in chunks of whole users."""
        start = 0
        for chunk in self.everything.chunks():
            first, end = np.searchsorted(self.positions, (start, start + len(chunk)))
            kept = np.ones(len(chunk), np.bool_)
            kept[self.positions[first:end] - start] = False
            start += len(chunk)
            yield chunk.take(kept)


@dataclass(frozen=True, slots=True)
class Before:
    """The pairs of a data set as they were at a moment.

    Attributes:
        dataset: All interactions.
        moment: In seconds since the epoch; what happened then is left out.
    """

    dataset: Dataset
    moment: float

    def chunks(self) -> Iterator[Rows]:
        """The pairs in chunks of whole users, each at the time of its latest event before the moment."""
        for chunk in self.dataset.events.chunks():
            yield latest_of_each(chunk.take(chunk.times < self.moment), len(self.dataset.posts.ids))


@dataclass(frozen=True, slots=True)
class Split:
    """A data set's pairs without those held out, and those held out, one a user."""

    remaining: Without
    held_out: HeldOut

    @property
    def training(self) -> Interactions:
        """The remaining pairs, copied into memory."""
        return collect(self.remaining.chunks(), len(self.remaining.everything.offsets) - 1)

    def remaining_events(self, events: Interactions) -> Without:
        """All of the data set's events but those that make up a held-out pair."""
        held_out = np.full(len(events.offsets) - 1, ABSENT, np.int64)  # the post, by user
        held_out[self.held_out.users] = self.held_out.candidates[:, 0]
        found, start = [np.empty(0, np.int64)], 0
        for chunk in events.chunks():
            found.append(start + np.flatnonzero(chunk.posts == held_out[chunk.users]))
            start += len(chunk)
        return Without(events, np.concatenate(found))


@dataclass(frozen=True, slots=True)
class TimeSplit:
    """A data set's pairs before a moment, and those that began at or after it, in memory."""

    training: Before
    held_out: Rows


def none_of(rows: Rows) -> BoolArray:
    """Bool (n): no row."""
    return np.zeros(len(rows), np.bool_)


def leave_one_out(
    dataset: Dataset,
    negatives: int,
    rng: np.random.Generator,
    at_most: int | None = None,
    refused: Callable[[Rows], BoolArray] = none_of,
) -> Split:
    """Holds out the latest pair of every user who has another one.

    A deleted post and one behind a block would never be a candidate, so they are not held out. Where times
    tie, chance decides.

    Args:
        dataset: All interactions.
        negatives: How many candidates to draw beside each held-out post.
        rng: The source of chance.
        at_most: Of how many users, drawn by chance, one is held out where there are more; each takes
            8 bytes a candidate.
        refused: Which pairs, bool (n), of some users are not held out either; it is asked of whole users.
    """
    blocking = Blocking(dataset)
    found = [np.empty(0, np.int64)]
    start = 0
    for chunk in dataset.pairs.chunks():
        eligible = _eligible(dataset, blocking, chunk) & (np.bincount(chunk.users)[chunk.users] > 1)
        eligible &= ~refused(chunk)
        order = np.lexsort((rng.random(len(chunk)), chunk.times, chunk.users))
        order = order[eligible[order]]
        users = chunk.users[order]
        found.append(np.sort(order[np.append(users[1:] != users[:-1], True)[: len(order)]]) + start)
        start += len(chunk)
    positions = np.concatenate(found)
    if at_most is not None and len(positions) > at_most:
        positions = np.sort(rng.choice(positions, at_most, replace=False))
    pairs = dataset.pairs
    users = np.searchsorted(pairs.offsets, positions, side="right") - 1
    times, posts = pairs.times[positions], pairs.posts[positions].astype(np.int64)
    drawn = draw_negatives(dataset, users, times, negatives, rng)
    candidates = np.concatenate((posts[:, None], drawn), axis=1)
    return Split(Without(pairs, positions), HeldOut(users, candidates, times))


def time_split(dataset: Dataset, moment: float) -> TimeSplit:
    """Holds out the pairs that began at a moment (seconds since the epoch) or later.

    A user's further like of or comment on a post that they had touched before is neither new nor held out.
    Posts that are deleted or behind a block are not held out.
    """
    blocking = Blocking(dataset)
    later = [Rows(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
    for chunk in dataset.events.chunks():
        first = earliest_of_each(chunk, len(dataset.posts.ids))
        new = first.take(first.times >= moment)
        later.append(new.take(_eligible(dataset, blocking, new)))
    users, posts, times = (
        np.concatenate([getattr(rows, name) for rows in later]) for name in ("users", "posts", "times")
    )
    return TimeSplit(Before(dataset, moment), Rows(users, posts, times))


def moment_at(events: Interactions, share: float) -> float:
    """The moment before which about this share of all events happened, in seconds since the epoch.

    Where there are very many, it is that of evenly spread ones.
    """
    step = max(len(events) // TIMES_LOOKED_AT, 1)
    return float(np.quantile(events.times[::step], share))


def _eligible(dataset: Dataset, blocking: Blocking, rows: Rows) -> BoolArray:
    """Bool (n): which rows are of a live post that no block hides."""
    return ~dataset.posts.deleted[rows.posts] & ~blocking.hides(rows.users, rows.posts)
