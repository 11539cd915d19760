"""A test of recommenders: what they may know, and what they must find."""

from dataclasses import dataclass

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
from animora_training.data.split import HeldOut, leave_one_out, moment_at, time_split
from animora_training.errors import NothingToLearn
from animora_training.evaluation.measures import SAMPLED
from animora_training.evaluation.network_ranking import FEWEST_NEGATIVES
from animora_training.evaluation.task import RankingTask, one_each, several_each

COLD_USER = 5  # training pairs, at most


@dataclass(frozen=True, slots=True)
class EvaluationSplit:
    """What a recommender may know, and what it must find.

    Attributes:
        name: For tables.
        training: The pairs that it may know.
        events: All events of these pairs, which popularity and the heuristic count.
        task: For the full ranking, a row a user or a test pair.
        drawn: For the sampled ranking: one relevant post of each row of the task, with posts drawn beside it.
        likes: int64 (m), how many posts each row's user likes, held-out ones included.
        dropped: Rows that are left out, for there were too few posts to draw beside them.
    """

    name: str
    training: Interactions
    events: Interactions
    task: RankingTask
    drawn: HeldOut
    likes: IntArray
    dropped: int

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


def ncf_split(name: str, dataset: Dataset, held_out: HeldOut) -> EvaluationSplit:
    """A test on pairs that the data set does not have.

    They happened after all that it has, so no post is too new, and the heuristic is asked at its last moment.
    A pair is ranked among what comes with it, one other post at least.

    Raises:
        NothingToLearn: There is no pair to rank.
    """
    everything, held_out = held_out, held_out.beside(1)
    _require(
        len(held_out.users),
        "none of the test pairs can be shown by the database, beside another post: is it the data set's?",
    )
    last = float(dataset.events.times.max(initial=0.0))
    relevant = Rows(held_out.users, held_out.candidates[:, 0], np.full(len(held_out.users), last))
    task = one_each(dataset, dataset.pairs, relevant, np.full(len(relevant), np.inf))
    drawn = HeldOut(held_out.users, held_out.candidates, relevant.times)
    return _exam(name, (dataset.pairs, dataset.events), task, drawn, len(everything.users))


def leave_one_out_split(dataset: Dataset, seed: int, negatives: int = SAMPLED) -> EvaluationSplit:
    """Each user's latest pair held out; those beside which too few posts can be drawn are not asked for.

    Raises:
        NothingToLearn: No user has two pairs, or there are too few posts.
    """
    split = leave_one_out(dataset, negatives, np.random.default_rng(seed))
    training, users = split.training, len(split.held_out.users)
    _require(users, "no user has interacted with two posts: import more likes and comments")
    held_out = _well_beside(split.held_out, negatives)
    relevant = Rows(held_out.users, held_out.candidates[:, 0], held_out.times)
    task = one_each(dataset, training, relevant)
    events = collect(split.remaining_events(dataset).chunks(), len(dataset.user_ids))
    return _exam("leave-one-out", (training, events), task, held_out, users)


def time_ordered_split(
    dataset: Dataset, seed: int, share: float, negatives: int = SAMPLED
) -> EvaluationSplit:
    """What began after a share of the events, on posts that were there already, asked at that moment.

    Newer posts are another question: see newer_posts in cold_posts.

    Raises:
        NothingToLearn: All events are of one time, nothing is left to find, or there are too few posts.
    """
    moment = moment_of(dataset, share)
    split = time_split(dataset, moment)
    training = collect(split.training.chunks(), len(dataset.user_ids))
    there = first_seen(dataset) <= moment
    everybody = several_each(dataset, training, split.held_out, there)
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
    task = several_each(dataset, training, relevant, there)
    events = dataset.events.take(dataset.events.times < moment)
    return _exam("time split", (training, events), task, held_out, len(everybody.users))


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


def _well_beside(held_out: HeldOut, negatives: int) -> HeldOut:
    """The rows for which enough posts were drawn to tell a good order from a bad one."""
    kept = held_out.beside(min(FEWEST_NEGATIVES, negatives))
    _require(
        len(kept.users),
        f"no held-out post has {FEWEST_NEGATIVES} others to be ranked among, which its user has not touched "
        "and which existed then: there are too few posts, or their created_at is later than the likes",
    )
    return kept


def _exam(
    name: str, known: tuple[Interactions, Interactions], task: RankingTask, drawn: HeldOut, rows: int
) -> EvaluationSplit:
    """The exam of known pairs and events; of so many rows that there were, those that are drawn are left."""
    training, events = known
    relevant = np.bincount(task.users[task.relevant[0]], minlength=len(training.offsets) - 1)
    likes = (np.diff(training.offsets) + relevant)[task.users]
    return EvaluationSplit(name, training, events, task, drawn, likes, rows - len(drawn.users))


def _require(found: int, otherwise: str) -> None:
    if not found:
        raise NothingToLearn(otherwise)
