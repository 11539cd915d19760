"""Leave-one-out: each user's latest interaction is held out, among posts that they could have seen."""

from dataclasses import dataclass

import numpy as np

from animora_training.data.dataset import ABSENT, BoolArray, Dataset, DoubleArray, IntArray, Interactions

MAX_ROUNDS = 20


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
class Split:
    """A data set's pairs without those held out, and those held out."""

    training: Interactions
    held_out: HeldOut


def leave_one_out(dataset: Dataset, negatives: int, rng: np.random.Generator) -> Split:
    """Holds out the latest pair of every user who has another one.

    A deleted post and one behind a block would never be a candidate, so they are not held out. Where times
    tie, chance decides.

    Args:
        dataset: All interactions.
        negatives: How many candidates to draw beside each held-out post.
        rng: The source of chance.
    """
    pairs = dataset.pairs()
    eligible = ~dataset.posts.deleted[pairs.posts] & ~dataset.blocked(pairs.users, pairs.posts)
    enough = np.bincount(pairs.users, minlength=len(dataset.user_ids))[pairs.users] > 1
    order = np.lexsort((rng.random(len(pairs)), pairs.times, pairs.users))
    order = order[(eligible & enough)[order]]
    users = pairs.users[order]
    latest = order[np.append(users[1:] != users[:-1], True)[: len(order)]]
    remaining = np.ones(len(pairs), np.bool_)
    remaining[latest] = False
    chosen = pairs.take(latest)
    drawn = draw_negatives(dataset, chosen, negatives, rng)
    candidates = np.concatenate((chosen.posts[:, None], drawn), axis=1)
    return Split(pairs.take(remaining), HeldOut(chosen.users, candidates, chosen.times))


def draw_negatives(
    dataset: Dataset, held_out: Interactions, count: int, rng: np.random.Generator
) -> IntArray:
    """Distinct posts that each user could have seen at the time but never interacted with.

    Drawn uniformly from the live posts that existed by then and that no block hides.

    Args:
        dataset: All interactions.
        held_out: Whose, and when (m).
        count: How many for each.
        rng: The source of chance.

    Returns:
        int64 (m, count), indices into posts; ABSENT where MAX_ROUNDS of drawing found too few.
    """
    live = np.flatnonzero(~dataset.posts.deleted)
    live = live[np.argsort(dataset.posts.created[live], kind="stable")]
    existing = np.searchsorted(dataset.posts.created[live], held_out.times, side="right")  # int64 (m)
    interacted = np.unique(dataset.pair_keys(dataset.events.users, dataset.events.posts))
    users = np.broadcast_to(held_out.users[:, None], (len(held_out), count))
    limits = np.broadcast_to(existing[:, None], users.shape)
    negatives = np.full(users.shape, ABSENT, np.int64)
    wanted = limits > 0
    for _ in range(MAX_ROUNDS):
        if not wanted.any():
            break
        drawn = live[rng.integers(0, limits[wanted])]
        keys = dataset.pair_keys(users[wanted], drawn)
        refused = np.isin(keys, interacted) | dataset.blocked(users[wanted], drawn)
        negatives[wanted] = np.where(refused, ABSENT, drawn)
        negatives = without_repeats(negatives)
        wanted = (negatives == ABSENT) & (limits > 0)
    return negatives


def without_repeats(rows: IntArray) -> IntArray:
    """The rows (m, k) with all but the first of equal entries in a row set to ABSENT."""
    order = np.argsort(rows, axis=1, kind="stable")
    ordered = np.take_along_axis(rows, order, axis=1)
    repeated = np.zeros(rows.shape, np.bool_)
    np.put_along_axis(repeated, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return np.where(repeated, ABSENT, rows)
