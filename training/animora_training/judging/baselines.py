"""What NeuCF must beat: popularity, and the heuristic that the server falls back to."""

import numpy as np

from animora_training.data.dataset import DoubleArray, Interactions, Posts
from animora_training.data.split import HeldOut

POPULARITY_WEIGHT = 0.6
RECENCY_SCALE = 6 * 3600.0


def popularity_scores(posts: Posts, training: Interactions, held_out: HeldOut) -> DoubleArray:
    """How many training events each candidate has over all time, float64 (m, 1 + k)."""
    counts = np.bincount(training.posts, minlength=len(posts.ids)).astype(np.float64)
    scores: DoubleArray = counts[np.maximum(held_out.candidates, 0)]
    return scores


def heuristic_scores(posts: Posts, training: Interactions, held_out: HeldOut) -> DoubleArray:
    """The server's heuristic at the moment of each held-out interaction, float64 (m, 1 + k).

    0.6 · log1p(count) / log1p(highest count of a live post) + 0.4 · exp(-age / 6 h), where the counts are
    of training events up to and including that moment: where all times are one placeholder, that is all
    of them. A post's age is taken as 0 where it is negative.

    Args:
        posts: All posts.
        training: The events without those of held-out pairs, in any order.
        held_out: Whom to rank what for, and when.
    """
    times = np.sort(training.times)
    moments = np.searchsorted(times, held_out.times, side="right")  # events by then, int64 (m)
    by_post = np.lexsort((training.times, training.posts))
    span = len(times) + 1
    # Position in time as the second digit of a number whose first digit is the post.
    keys = training.posts[by_post] * span + np.searchsorted(times, training.times[by_post], side="right")
    candidates = np.maximum(held_out.candidates, 0)
    until = np.searchsorted(keys, candidates * span + moments[:, None], side="right")
    counts = until - np.searchsorted(keys, candidates * span, side="left")
    highest = _highest_counts(posts, training)[moments]  # (m)
    scale = np.log1p(np.maximum(highest, 1))[:, None]  # without any event all counts are 0
    popularity = np.log1p(counts) / scale
    ages = np.maximum(held_out.times[:, None] - posts.created[candidates], 0.0)
    recency = np.exp(-ages / RECENCY_SCALE)
    scores: DoubleArray = POPULARITY_WEIGHT * popularity + (1 - POPULARITY_WEIGHT) * recency
    return scores


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
