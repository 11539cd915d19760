"""A test of recommenders: what they may know, and what they must find."""

from dataclasses import dataclass

import numpy as np

from animora_training.data.candidates import draw_negatives
from animora_training.data.dataset import (
    BoolArray,
    Dataset,
    DoubleArray,
    IntArray,
    Interactions,
    Rows,
    collect,
)
from animora_training.data.split import HeldOut, leave_one_out, moment_at, time_split
from animora_training.errors import NothingToLearn
from animora_training.judging.measures import SAMPLED
from animora_training.judging.task import RankingTask, one_each, several_each

COLD_USER = 5  # training pairs, at most


@dataclass(frozen=True, slots=True)
class Exam:
    """What a recommender may know, and what it must find.

    Attributes:
        name: For tables.
        training: The pairs that it may know.
        events: All events of these pairs, which popularity and the heuristic count.
        task: For the full ranking, a row a user or a test pair.
        drawn: For the sampled ranking: one relevant post of each row of the task, with posts drawn beside it.
        likes: int64 (m), how many posts each row's user likes, held-out ones included.
    """

    name: str
    training: Interactions
    events: Interactions
    task: RankingTask
    drawn: HeldOut
    likes: IntArray

    @property
    def moments(self) -> DoubleArray:
        """When each user asks the heuristic, float64 (u): at the held-out moment."""
        moments = np.zeros(len(self.training.offsets) - 1)
        moments[self.drawn.users] = self.drawn.times
        return moments

    def groups(self) -> dict[str, BoolArray]:
        """Which rows, bool (m), are of users with much, little and no history."""
        known = np.diff(self.training.offsets)[self.task.users]
        return {
            f"warm users (> {COLD_USER} known likes)": known > COLD_USER,
            f"cold users (1 to {COLD_USER})": (known > 0) & (known <= COLD_USER),
            "new users (none)": known == 0,
        }


def ncf_exam(name: str, dataset: Dataset, held_out: HeldOut) -> Exam:
    """A test on pairs that the data set does not have.

    They happened after all that it has, so no post is too new, and the heuristic is asked at its last moment.

    Raises:
        NothingToLearn: There is no pair to rank.
    """
    _require(
        len(held_out.users), "none of the test pairs can be shown by the database: is it the data set's?"
    )
    last = float(dataset.events.times.max(initial=0.0))
    relevant = Rows(held_out.users, held_out.candidates[:, 0], np.full(len(held_out.users), last))
    task = one_each(dataset, dataset.pairs, relevant, np.full(len(relevant), np.inf))
    drawn = HeldOut(held_out.users, held_out.candidates, relevant.times)
    return _exam(name, dataset.pairs, dataset.events, task, drawn)


def leave_one_out_exam(dataset: Dataset, seed: int, negatives: int = SAMPLED) -> Exam:
    """Each user's latest pair held out.

    Raises:
        NothingToLearn: No user has two pairs.
    """
    split = leave_one_out(dataset, negatives, np.random.default_rng(seed))
    held_out, training = split.held_out, split.training
    _require(len(held_out.users), "no user has interacted with two posts: import more likes and comments")
    relevant = Rows(held_out.users, held_out.candidates[:, 0], held_out.times)
    task = one_each(dataset, training, relevant)
    events = collect(split.remaining_events(dataset).chunks(), len(dataset.user_ids))
    return _exam("leave-one-out", training, events, task, held_out)


def time_exam(dataset: Dataset, seed: int, share: float, negatives: int = SAMPLED) -> Exam:
    """What began after a share of the events, on posts that were there already, asked at that moment.

    Newer posts are another question: see newer_posts in cold_posts.

    Raises:
        NothingToLearn: All events are of one time, or nothing is left to find.
    """
    moment = moment_of(dataset, share)
    split = time_split(dataset, moment)
    training = collect(split.training.chunks(), len(dataset.user_ids))
    task = several_each(dataset, training, split.held_out, dataset.posts.created <= moment)
    _require(len(task.users), "nobody liked a post after the time split's moment that was there before it")
    rng = np.random.default_rng(seed)
    rows, posts = task.relevant
    chosen = posts[np.searchsorted(rows, np.arange(len(task.users))) + rng.integers(0, np.bincount(rows))]
    times = np.full(len(task.users), moment)
    drawn = draw_negatives(dataset, task.users, times, negatives, rng)
    held_out = HeldOut(task.users, np.concatenate((chosen[:, None], drawn), axis=1), times)
    events = dataset.events.take(dataset.events.times < moment)
    return _exam("time split", training, events, task, held_out)


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
        "time split has no before and after: judge by leave-one-out, or import data with real times",
    )
    return moment


def _exam(name: str, training: Interactions, events: Interactions, task: RankingTask, drawn: HeldOut) -> Exam:
    relevant = np.bincount(task.users[task.relevant[0]], minlength=len(training.offsets) - 1)
    likes = (np.diff(training.offsets) + relevant)[task.users]
    return Exam(name, training, events, task, drawn, likes)


def _require(found: int, otherwise: str) -> None:
    if not found:
        raise NothingToLearn(otherwise)
