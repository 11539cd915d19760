"""Evaluation splits: training data, and the test pairs to rank."""

from dataclasses import dataclass, replace

import numpy as np

from animora_training.data.candidates import draw_negatives, first_seen
from animora_training.data.dataset import (
    BoolArray,
    Dataset,
    DoubleArray,
    IntArray,
    Interactions,
    Rows,
    collect,
)
from animora_training.data.split import (
    HeldOut,
    Split,
    hold_out_pairs,
    latest_pairs,
    leave_one_out,
    moment_at,
    time_split,
)
from animora_training.errors import NothingToLearn
from animora_training.evaluation.measures import SAMPLED
from animora_training.evaluation.network_ranking import FEWEST_NEGATIVES
from animora_training.evaluation.task import RankingTask, task_by_pair, task_by_user

COLD_USER = 5  # maximum number of training pairs of a cold user


@dataclass(frozen=True, slots=True)
class EvaluationSplit:
    """Training data and test pairs of an evaluation.

    Attributes:
        name: Name for tables.
        training: Training pairs.
        events: Events of the training pairs, which popularity and the heuristic count.
        task: Task of the full ranking, a row for each user or test pair.
        sampled: Candidates of the sampled ranking: one relevant post of each row, and sampled negatives.
        likes: int64 (m), number of posts that each row's user likes, held-out ones included.
        dropped: Number of rows left out for too few negatives.
    """

    name: str
    training: Interactions
    events: Interactions
    task: RankingTask
    sampled: HeldOut
    likes: IntArray
    dropped: int

    @property
    def moments(self) -> DoubleArray:
        """Moment of each user's held-out pair, float64 (u), at which the heuristic is evaluated."""
        moments = np.zeros(len(self.training.offsets) - 1)
        moments[self.sampled.users] = self.sampled.times
        return moments

    def groups(self) -> dict[str, BoolArray]:
        """Rows, bool (m), of warm, cold and new users, by the name of the group."""
        known = np.diff(self.training.offsets)[self.task.users]
        return {
            f"warm users (> {COLD_USER} known likes)": known > COLD_USER,
            f"cold users (1 to {COLD_USER})": (known > 0) & (known <= COLD_USER),
            "new users (none)": known == 0,
        }


def ncf_split(name: str, dataset: Dataset, held_out: HeldOut) -> EvaluationSplit:
    """Split with test pairs that are not in the data set.

    The pairs come after all data, so no post is too new, and the heuristic is evaluated at the last event. A
    pair is ranked among its own candidates; it needs at least one negative.

    Raises:
        NothingToLearn: There is no pair to rank.
    """
    everything, held_out = held_out, held_out.with_negatives(1)
    _require(
        len(held_out.users),
        "the database has none of the test pairs with another post: is it the database of this data set?",
    )
    last = float(dataset.events.times.max(initial=0.0))
    relevant = Rows(held_out.users, held_out.candidates[:, 0], np.full(len(held_out.users), last))
    task = task_by_pair(dataset, dataset.pairs, relevant, np.full(len(relevant), np.inf))
    drawn = HeldOut(held_out.users, held_out.candidates, relevant.times)
    return _split(name, (dataset.pairs, dataset.events), task, drawn, len(everything.users))


def leave_one_out_split(dataset: Dataset, seed: int, negatives: int = SAMPLED) -> EvaluationSplit:
    """Holds out each user's latest pair; pairs with too few negatives are dropped.

    Raises:
        NothingToLearn: No user has two pairs, or there are too few posts.
    """
    split = leave_one_out(dataset, negatives, np.random.default_rng(seed))
    known, held_out = _known(dataset, split), _well_beside(split.held_out, negatives)
    relevant = Rows(held_out.users, held_out.candidates[:, 0], held_out.times)
    task = task_by_pair(dataset, known.pairs, relevant)
    return _split("leave-one-out", (known.pairs, known.events), task, held_out, len(split.held_out.users))


def latest_split(dataset: Dataset, seed: int, negatives: int = SAMPLED) -> EvaluationSplit:
    """Holds out each user's latest pair, and ranks it as `ncf_split` ranks a test pair.

    So the training pairs of a user come before the held-out one, but for those with deleted or blocked posts;
    of pairs of one time a random one is the latest. Negatives are drawn from all live posts without a pair of
    the user, whenever they were created. Pairs with too few negatives are dropped.

    Raises:
        NothingToLearn: No user has two pairs, or there are too few posts.
    """
    rng = np.random.default_rng(seed)
    split = hold_out_pairs(dataset, latest_pairs(dataset, rng), 0, rng)
    known, latest = _known(dataset, split), split.held_out
    drawn = draw_negatives(dataset, latest.users, np.full(len(latest.users), np.inf), negatives, rng)
    candidates = np.concatenate((latest.candidates, drawn), axis=1)
    held_out = _well_beside(HeldOut(latest.users, candidates, latest.times), negatives)
    found = ncf_split("latest interactions", known, held_out)
    return replace(found, dropped=len(latest.users) - len(held_out.users))


def time_ordered_split(
    dataset: Dataset, seed: int, share: float, negatives: int = SAMPLED
) -> EvaluationSplit:
    """Holds out the pairs that began after a share of the events, on posts that existed by then.

    `cold_posts.newer_posts` holds out the pairs on newer posts.

    Raises:
        NothingToLearn: All events are of one time, nothing is left to find, or there are too few posts.
    """
    moment = moment_of(dataset, share)
    split = time_split(dataset, moment)
    training = collect(split.training.chunks(), len(dataset.user_ids))
    there = first_seen(dataset) <= moment
    everybody = task_by_user(dataset, training, split.held_out, there)
    _require(
        len(everybody.users), "nobody liked a post after the time split's moment that was there before it"
    )
    rng = np.random.default_rng(seed)
    rows, posts = everybody.relevant
    chosen = posts[
        np.searchsorted(rows, np.arange(len(everybody.users))) + rng.integers(0, np.bincount(rows))
    ]
    times = np.full(len(everybody.users), moment)
    drawn = draw_negatives(dataset, everybody.users, times, negatives, rng)
    candidates = np.concatenate((chosen[:, None], drawn), axis=1)
    held_out = _well_beside(HeldOut(everybody.users, candidates, times), negatives)
    relevant = split.held_out.take(np.isin(split.held_out.users, held_out.users))
    task = task_by_user(dataset, training, relevant, there)
    events = dataset.events.take(dataset.events.times < moment)
    return _split("time split", (training, events), task, held_out, len(everybody.users))


def moment_of(dataset: Dataset, share: float) -> float:
    """The moment, in seconds since the epoch, before which a share of the events happened.

    Raises:
        NothingToLearn: The events do not have times that differ, so there is no before and after.
    """
    times = dataset.events.times
    _require(len(times), "there are no likes or comments")
    moment = moment_at(dataset.events, share)
    _require(
        int((times < moment).any()),
        f"all likes and comments, or the first {share:.0%} of them, have one time (a placeholder?), so a "
        "time split has no before and after: evaluate by leave-one-out, or import data with real times",
    )
    return moment


def _known(dataset: Dataset, split: Split) -> Dataset:
    """The data set without the held-out pairs and their events.

    Raises:
        NothingToLearn: No pair is held out.
    """
    _require(
        len(split.held_out.users), "no user has interacted with two posts: import more likes and comments"
    )
    events = collect(split.remaining_events(dataset).chunks(), len(dataset.user_ids))
    return replace(dataset, pairs=split.training, events=events)


def _well_beside(held_out: HeldOut, negatives: int) -> HeldOut:
    """The rows with enough negatives for meaningful metrics."""
    kept = held_out.with_negatives(min(FEWEST_NEGATIVES, negatives))
    _require(
        len(kept.users),
        f"no held-out post has {FEWEST_NEGATIVES} others to be ranked among, which its user has not touched "
        "and which existed then: there are too few posts, or their created_at is later than the likes",
    )
    return kept


def _split(
    name: str, known: tuple[Interactions, Interactions], task: RankingTask, drawn: HeldOut, rows: int
) -> EvaluationSplit:
    """Builds a split from training pairs and events; `rows` counts the dropped rows too."""
    training, events = known
    relevant = np.bincount(task.users[task.relevant[0]], minlength=len(training.offsets) - 1)
    likes = (np.diff(training.offsets) + relevant)[task.users]
    return EvaluationSplit(name, training, events, task, drawn, likes, rows - len(drawn.users))


def _require(found: int, otherwise: str) -> None:
    if not found:
        raise NothingToLearn(otherwise)
