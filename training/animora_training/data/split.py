"""What is held out of a data set: each user's latest interactions, or all that came after a moment."""

import math
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
    index_of,
    latest_of_each,
)

# Of a user's pairs, where more than one is held out.
LARGEST_SHARE = 0.1
TIMES_LOOKED_AT = 1 << 20


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Held-out pairs, and what the post of each is ranked among.

    Attributes:
        users: int64 (m), ascending, indices into the data set's user ids.
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

    @property
    def negatives(self) -> IntArray:
        """Int64 (m): how many posts each held-out post is ranked beside."""
        counts: IntArray = self.present[:, 1:].sum(axis=1, dtype=np.int64)
        return counts

    @property
    def mean_candidates(self) -> float:
        """How many posts are ranked in a row, the held-out one included: the mean; NaN without rows."""
        return 1.0 + float(self.negatives.mean()) if len(self.users) else math.nan

    def beside_at_most(self, most: int) -> "HeldOut":
        """The same rows with the first negatives alone, which were drawn like all."""
        return HeldOut(self.users, self.candidates[:, : 1 + most], self.times)

    def beside(self, fewest: int) -> "HeldOut":
        """The rows with at least so many negatives."""
        return self.take(self.negatives >= fewest)


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
    """A data set's pairs without those held out, and those held out."""

    remaining: Without
    held_out: HeldOut

    @property
    def training(self) -> Interactions:
        """The remaining pairs, copied into memory."""
        return collect(self.remaining.chunks(), len(self.remaining.everything.offsets) - 1)

    def remaining_events(self, dataset: Dataset) -> Without:
        """All of the data set's events but those that make up a held-out pair."""
        held_out = np.sort(dataset.pair_keys(self.held_out.users, self.held_out.candidates[:, 0]))
        found, start = [np.empty(0, np.int64)], 0
        for chunk in dataset.events.chunks():
            at = index_of(dataset.pair_keys(chunk.users, chunk.posts), held_out)
            found.append(start + np.flatnonzero(at != ABSENT))
            start += len(chunk)
        return Without(dataset.events, np.concatenate(found))


@dataclass(frozen=True, slots=True)
class Latest:
    """Pairs of a data set that may be held out, each user's latest ones.

    Attributes:
        positions: int64 (n), ascending, among the data set's pairs.
        users: int64 (n), ascending.
        places: int64 (n), 0 for a user's latest one, 1 for the one before, and so on.
    """

    positions: IntArray
    users: IntArray
    places: IntArray

    def take(self, chosen: BoolArray) -> "Latest":
        """Those where a mask says so."""
        return Latest(self.positions[chosen], self.users[chosen], self.places[chosen])

    def of_some(self, at_most: int, rng: np.random.Generator) -> "Latest":
        """Those of so many users, drawn by chance, where there are more."""
        users = np.unique(self.users)
        if len(users) <= at_most:
            return self
        return self.take(np.isin(self.users, rng.choice(users, at_most, replace=False)))


@dataclass(frozen=True, slots=True)
class TimeSplit:
    """A data set's pairs before a moment, and those that began at or after it, in memory."""

    training: Before
    held_out: Rows


def none_of(rows: Rows) -> BoolArray:
    """Bool (n): no row."""
    return np.zeros(len(rows), np.bool_)


def latest_pairs(
    dataset: Dataset,
    rng: np.random.Generator,
    most: int = 1,
    refused: Callable[[Rows], BoolArray] = none_of,
) -> Latest:
    """The latest pair of every user who has another one, or several, if a user has many.

    A deleted post and one behind a block would never be a candidate, so they are left out. Where times tie,
    chance decides.

    Args:
        dataset: All interactions.
        rng: The source of chance.
        most: How many of each user; beyond the first one not more than LARGEST_SHARE of what a user has.
        refused: Which pairs, bool (n), of some users are left out too; it is asked of whole users.
    """
    blocking = Blocking(dataset)
    found = [Latest(*(np.empty(0, np.int64) for _ in range(3)))]
    start = 0
    for chunk in dataset.pairs.chunks():
        counts = np.bincount(chunk.users)
        eligible = _eligible(dataset, blocking, chunk) & (counts[chunk.users] > 1) & ~refused(chunk)
        latest_first = np.lexsort((rng.random(len(chunk)), chunk.times, chunk.users))[::-1]
        order = latest_first[eligible[latest_first]]
        places = np.full(len(chunk), most)  # so many others come before what is not eligible
        places[order] = np.arange(len(order)) - np.searchsorted(-chunk.users[order], -chunk.users[order])
        limits = np.clip((LARGEST_SHARE * counts).astype(np.int64), 1, most)
        at = np.flatnonzero(places < limits[chunk.users])
        found.append(Latest(start + at, chunk.users[at], places[at]))
        start += len(chunk)
    return Latest(*(np.concatenate([getattr(some, name) for some in found]) for name in Latest.__slots__))


def split_off(dataset: Dataset, latest: Latest, negatives: int, rng: np.random.Generator) -> Split:
    """Holds out pairs of a data set.

    Args:
        dataset: All interactions.
        latest: Which.
        negatives: How many candidates to draw beside each held-out post; each takes 8 bytes.
        rng: The source of chance.
    """
    pairs = dataset.pairs
    times, posts = pairs.times[latest.positions], pairs.posts[latest.positions].astype(np.int64)
    drawn = draw_negatives(dataset, latest.users, times, negatives, rng)
    candidates = np.concatenate((posts[:, None], drawn), axis=1)
    return Split(Without(pairs, latest.positions), HeldOut(latest.users, candidates, times))


def leave_one_out(dataset: Dataset, negatives: int, rng: np.random.Generator) -> Split:
    """Holds out the latest pair of every user who has another one, see `latest_pairs` and `split_off`.

    Args:
        dataset: All interactions.
        negatives: How many candidates to draw beside each held-out post.
        rng: The source of chance.
    """
    return split_off(dataset, latest_pairs(dataset, rng), negatives, rng)


def pairs_of_each(dataset: Dataset, enough: int) -> int:
    """How many pairs of each user who has several make so many in all; at least 1."""
    users = int(np.sum(np.diff(dataset.pairs.offsets) > 1))
    return max(-(-enough // max(users, 1)), 1)


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
