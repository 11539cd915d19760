"""Hold-outs of a data set: each user's latest pairs, or all pairs after a moment."""

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

# Maximum share of a user's pairs that is held out, if more than one is.
LARGEST_SHARE = 0.1
TIMES_LOOKED_AT = 1 << 20


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Held-out pairs with their candidates.

    Attributes:
        users: int64 (m), ascending, indices into the data set's user ids.
        candidates: int64 (m, 1 + k), indices into its posts; column 0 is the held-out post, the rest are
            negatives, padded with ABSENT.
        times: float64 (m), time of the held-out interaction, seconds since the epoch.
    """

    users: IntArray
    candidates: IntArray
    times: DoubleArray

    def take(self, chosen: IntArray | BoolArray) -> "HeldOut":
        """Those at indices, or where a mask says so."""
        return HeldOut(self.users[chosen], self.candidates[chosen], self.times[chosen])

    @property
    def present(self) -> BoolArray:
        """Bool (m, 1 + k): False for padding."""
        present: BoolArray = self.candidates != ABSENT
        return present

    @property
    def negatives(self) -> IntArray:
        """Int64 (m): number of negatives of each pair."""
        counts: IntArray = self.present[:, 1:].sum(axis=1, dtype=np.int64)
        return counts

    @property
    def mean_candidates(self) -> float:
        """Mean number of candidates of a pair, the held-out post included; NaN without pairs."""
        return 1.0 + float(self.negatives.mean()) if len(self.users) else math.nan

    def limit_negatives(self, maximum: int) -> "HeldOut":
        """The pairs with at most `maximum` of their negatives."""
        return HeldOut(self.users, self.candidates[:, : 1 + maximum], self.times)

    def with_negatives(self, minimum: int) -> "HeldOut":
        """The pairs with at least `minimum` negatives."""
        return self.take(self.negatives >= minimum)


@dataclass(frozen=True, slots=True)
class ExceptRows:
    """Interactions except those at some positions, which are skipped while reading.

    Attributes:
        everything: All interactions.
        positions: int64 (m), positions to skip, ascending.
    """

    everything: Interactions
    positions: IntArray

    def __len__(self) -> int:
        return len(self.everything) - len(self.positions)

    def chunks(self) -> Iterator[Rows]:
        """The remaining interactions in chunks of whole users."""
        start = 0
        for chunk in self.everything.chunks():
            first, end = np.searchsorted(self.positions, (start, start + len(chunk)))
            kept = np.ones(len(chunk), np.bool_)
            kept[self.positions[first:end] - start] = False
            start += len(chunk)
            yield chunk.take(kept)


@dataclass(frozen=True, slots=True)
class PairsBefore:
    """The pairs of a data set before a moment.

    Attributes:
        dataset: All interactions.
        moment: Seconds since the epoch, exclusive.
    """

    dataset: Dataset
    moment: float

    def chunks(self) -> Iterator[Rows]:
        """The pairs in chunks of whole users, each at the time of its latest event before the moment."""
        for chunk in self.dataset.events.chunks():
            yield latest_of_each(chunk.take(chunk.times < self.moment), len(self.dataset.posts.ids))


@dataclass(frozen=True, slots=True)
class Split:
    """Held-out pairs, and the remaining pairs of the data set."""

    remaining: ExceptRows
    held_out: HeldOut

    @property
    def training(self) -> Interactions:
        """The remaining pairs, copied into memory."""
        return collect(self.remaining.chunks(), len(self.remaining.everything.offsets) - 1)

    def remaining_events(self, dataset: Dataset) -> ExceptRows:
        """The data set's events without those of held-out pairs."""
        held_out = np.sort(dataset.pair_keys(self.held_out.users, self.held_out.candidates[:, 0]))
        found, start = [np.empty(0, np.int64)], 0
        for chunk in dataset.events.chunks():
            at = index_of(dataset.pair_keys(chunk.users, chunk.posts), held_out)
            found.append(start + np.flatnonzero(at != ABSENT))
            start += len(chunk)
        return ExceptRows(dataset.events, np.concatenate(found))


@dataclass(frozen=True, slots=True)
class LatestPairs:
    """Each user's latest pairs, as positions in the data set.

    Attributes:
        positions: int64 (n), ascending, among the data set's pairs.
        users: int64 (n), ascending.
        places: int64 (n), 0 for a user's latest pair, 1 for the one before, and so on.
    """

    positions: IntArray
    users: IntArray
    places: IntArray

    def take(self, chosen: BoolArray) -> "LatestPairs":
        """Those where a mask says so."""
        return LatestPairs(self.positions[chosen], self.users[chosen], self.places[chosen])

    def sample_users(self, at_most: int, rng: np.random.Generator) -> "LatestPairs":
        """The pairs of at most `at_most` randomly chosen users."""
        users = np.unique(self.users)
        if len(users) <= at_most:
            return self
        return self.take(np.isin(self.users, rng.choice(users, at_most, replace=False)))


@dataclass(frozen=True, slots=True)
class TimeSplit:
    """Pairs before a moment, and the pairs that began at or after it, in memory."""

    training: PairsBefore
    held_out: Rows


def exclude_none(rows: Rows) -> BoolArray:
    """Excludes no row; bool (n)."""
    return np.zeros(len(rows), np.bool_)


def latest_pairs(
    dataset: Dataset,
    rng: np.random.Generator,
    most: int = 1,
    excluded: Callable[[Rows], BoolArray] = exclude_none,
) -> LatestPairs:
    """The latest pairs of every user with at least two pairs.

    Pairs with deleted or blocked posts are left out, since these are never candidates. Ties of time are
    broken at random.

    Args:
        dataset: All interactions.
        rng: The source of chance.
        most: Maximum number of pairs of a user, and at most LARGEST_SHARE of the user's pairs beyond the
            first one.
        excluded: Which pairs, bool (n), of some users are left out too; it is called with the rows of whole
            users.
    """
    blocking = Blocking(dataset)
    found = [LatestPairs(*(np.empty(0, np.int64) for _ in range(3)))]
    start = 0
    for chunk in dataset.pairs.chunks():
        counts = np.bincount(chunk.users)
        eligible = _eligible(dataset, blocking, chunk) & (counts[chunk.users] > 1) & ~excluded(chunk)
        latest_first = np.lexsort((rng.random(len(chunk)), chunk.times, chunk.users))[::-1]
        order = latest_first[eligible[latest_first]]
        places = np.full(len(chunk), most)  # ineligible pairs are beyond the limit
        places[order] = np.arange(len(order)) - np.searchsorted(-chunk.users[order], -chunk.users[order])
        limits = np.clip((LARGEST_SHARE * counts).astype(np.int64), 1, most)
        at = np.flatnonzero(places < limits[chunk.users])
        found.append(LatestPairs(start + at, chunk.users[at], places[at]))
        start += len(chunk)
    return LatestPairs(
        *(np.concatenate([getattr(some, name) for some in found]) for name in LatestPairs.__slots__)
    )


def hold_out_pairs(dataset: Dataset, latest: LatestPairs, negatives: int, rng: np.random.Generator) -> Split:
    """Holds out pairs of a data set.

    Args:
        dataset: All interactions.
        latest: The pairs to hold out.
        negatives: Number of negatives to sample for each pair; each takes 8 bytes.
        rng: The source of chance.
    """
    pairs = dataset.pairs
    times, posts = pairs.times[latest.positions], pairs.posts[latest.positions].astype(np.int64)
    drawn = draw_negatives(dataset, latest.users, times, negatives, rng)
    candidates = np.concatenate((posts[:, None], drawn), axis=1)
    return Split(ExceptRows(pairs, latest.positions), HeldOut(latest.users, candidates, times))


def leave_one_out(dataset: Dataset, negatives: int, rng: np.random.Generator) -> Split:
    """Holds out the latest pair of every user with at least two, see `latest_pairs` and `hold_out_pairs`.

    Args:
        dataset: All interactions.
        negatives: Number of negatives to sample for each pair.
        rng: The source of chance.
    """
    return hold_out_pairs(dataset, latest_pairs(dataset, rng), negatives, rng)


def pairs_of_each(dataset: Dataset, enough: int) -> int:
    """Number of pairs to hold out of each user to get about `enough` in all; at least 1."""
    users = int(np.sum(np.diff(dataset.pairs.offsets) > 1))
    return max(-(-enough // max(users, 1)), 1)


def time_split(dataset: Dataset, moment: float) -> TimeSplit:
    """Holds out the pairs whose first event is at or after a moment (seconds since the epoch).

    Pairs with deleted or blocked posts are not held out.
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
    return TimeSplit(PairsBefore(dataset, moment), Rows(users, posts, times))


def moment_at(events: Interactions, share: float) -> float:
    """The moment before which about a share of all events happened, seconds since the epoch.

    Estimated from an evenly spread sample of at most TIMES_LOOKED_AT events.
    """
    step = max(len(events) // TIMES_LOOKED_AT, 1)
    return float(np.quantile(events.times[::step], share))


def _eligible(dataset: Dataset, blocking: Blocking, rows: Rows) -> BoolArray:
    """Bool (n): rows with a live post that no block hides."""
    return ~dataset.posts.deleted[rows.posts] & ~blocking.hides(rows.users, rows.posts)
