"""Baselines without personalisation: popularity, and the server's heuristic."""

import numpy as np

from animora_training.data.dataset import DoubleArray, IntArray, Interactions, Posts
from animora_training.data.split import HeldOut

POPULARITY_WEIGHT = 0.6
RECENCY_SCALE = 6 * 3600.0


class PopularityBaseline:
    """Recommender that scores a post by its number of training events."""

    def __init__(self, posts: Posts, training: Interactions) -> None:
        """Counts the events."""
        self._counts = np.bincount(training.posts, minlength=len(posts.ids)).astype(np.float64)

    def grid(self, users: IntArray, posts: IntArray) -> DoubleArray:
        """See Recommender."""
        scores: DoubleArray = self._counts[posts]
        return scores

    def catalog(self, users: IntArray) -> DoubleArray:
        """See Recommender."""
        return np.broadcast_to(self._counts, (len(users), len(self._counts)))


class HeuristicBaseline:
    """Recommender by the server's heuristic, evaluated at a separate moment for each user.

    The score is 0.6 · log1p(count) / log1p(highest count of a live post) + 0.4 · exp(-age / 6 h). Counts are
    those of training events up to and including the moment; if all times are one placeholder, all events
    count. A negative age counts as 0.
    """

    def __init__(self, posts: Posts, training: Interactions, moments: DoubleArray) -> None:
        """Indexes the events by time.

        Args:
            posts: All posts.
            training: Training events, in any order.
            moments: float64 (u), the moment for each user, seconds since the epoch.
        """
        self._posts = posts
        self._moments = moments
        self._times = np.sort(training.times)
        by_post = np.lexsort((training.times, training.posts))
        self._span = len(self._times) + 1
        # Sort key: post · span + position in time.
        positions = np.searchsorted(self._times, training.times[by_post], side="right")
        self._keys = training.posts[by_post].astype(np.int64) * self._span + positions
        self._highest = _highest_counts(posts, training)

    def grid(self, users: IntArray, posts: IntArray) -> DoubleArray:
        """See Recommender."""
        return self.at(self._moments[users], posts)

    def catalog(self, users: IntArray) -> DoubleArray:
        """See Recommender."""
        # Users with the same moment share their scores.
        moments, row = np.unique(self._moments[users], return_inverse=True)
        everything = np.broadcast_to(np.arange(len(self._posts.ids)), (len(moments), len(self._posts.ids)))
        return self.at(moments, everything)[row]

    def at(self, moments: DoubleArray, posts: IntArray) -> DoubleArray:
        """Scores float64 (m, k) of posts (m, k) at moments (m)."""
        happened = np.searchsorted(self._times, moments, side="right")  # events by then, int64 (m)
        until = np.searchsorted(self._keys, posts * self._span + happened[:, None], side="right")
        counts = until - np.searchsorted(self._keys, posts * self._span, side="left")
        # Without any event all counts are 0.
        popularity = np.log1p(counts) / np.log1p(np.maximum(self._highest[happened], 1))[:, None]
        ages = np.maximum(moments[:, None] - self._posts.created[posts], 0.0)
        recency = np.exp(-ages / RECENCY_SCALE)
        scores: DoubleArray = POPULARITY_WEIGHT * popularity + (1 - POPULARITY_WEIGHT) * recency
        return scores


def popularity_scores(posts: Posts, training: Interactions, held_out: HeldOut) -> DoubleArray:
    """Popularity of each candidate, float64 (m, 1 + k)."""
    return PopularityBaseline(posts, training).grid(held_out.users, np.maximum(held_out.candidates, 0))


def heuristic_scores(posts: Posts, training: Interactions, held_out: HeldOut) -> DoubleArray:
    """The heuristic at the moment of each held-out interaction, float64 (m, 1 + k).

    Args:
        posts: All posts.
        training: Events without those of held-out pairs, in any order.
        held_out: Users, candidates and moments.
    """
    heuristic = HeuristicBaseline(posts, training, np.zeros(0))
    return heuristic.at(held_out.times, np.maximum(held_out.candidates, 0))


def _highest_counts(posts: Posts, training: Interactions) -> DoubleArray:
    """The highest count of a live post after the first 0, 1, ... n events, float64 (n + 1)."""
    order = np.argsort(training.times, kind="stable")
    happened = training.posts[order]
    by_post = np.argsort(happened, kind="stable")
    first = np.searchsorted(happened[by_post], happened[by_post], side="left")
    nth = np.empty(len(order))  # the count that each event brings its post to
    nth[by_post] = np.arange(len(order)) - first + 1
    nth[posts.deleted[happened]] = 0
    return np.concatenate(([0.0], np.maximum.accumulate(nth)))
