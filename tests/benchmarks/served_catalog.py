"""All posts of a ranking task scored by a running server, and given scores as a recommender."""

from dataclasses import dataclass

import numpy as np
from rich.progress import track

from animora_client import AsyncRankingClient, CachePolicy, RankRequest
from animora_training.data.dataset import Dataset, IntArray, index_of
from animora_training.evaluation.metrics import Scores
from animora_training.evaluation.task import RankingTask
from tests.benchmarks.served import answers_of, requests_at_once

CANDIDATES_A_REQUEST = 10_000  # the server's default `ranking.max_candidates`


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """A Recommender by given scores.

    Attributes:
        users: int64 (m), ascending, indices of the users that have scores.
        scores: floating (m, p), their scores of all posts.
    """

    users: IntArray
    scores: Scores

    def grid(self, users: IntArray, posts: IntArray) -> Scores:
        """See Recommender."""
        scores: Scores = np.take_along_axis(self.catalog(users), posts, axis=1)
        return scores

    def catalog(self, users: IntArray) -> Scores:
        """See Recommender."""
        return self.scores[np.searchsorted(self.users, users)]


async def catalog_through_server(
    client: AsyncRankingClient, dataset: Dataset, task: RankingTask, at_most: int = CANDIDATES_A_REQUEST
) -> ScoreTable:
    """Has the server score, for each user of a task, all posts that the task ranks; others get 0.

    A user's posts are spread over as many requests as the server's limit demands. Takes 4 bytes for each
    user and post.

    Args:
        client: A client of the server.
        dataset: The data set of the task.
        task: The ranking task.
        at_most: Maximum number of candidates of a request.

    Raises:
        RuntimeError: A response is degraded, or lacks a post.
    """
    users, row = np.unique(task.users, return_inverse=True)
    ranked = np.repeat(task.eligible[None], len(users), axis=0)
    ranked[row[task.hidden[0]], task.hidden[1]] = False
    ranked[row[task.relevant[0]], task.relevant[1]] = True
    scores = np.zeros(ranked.shape, np.float32)
    scores[ranked] = np.nan
    parts = [
        (user, posts[start : start + at_most])
        for user, posts in enumerate(map(np.flatnonzero, ranked))
        for start in range(0, len(posts), at_most)
    ]
    step = requests_at_once(min(at_most, ranked.shape[1]))
    for start in track(range(0, len(parts), step), "scoring all posts through the server"):
        some = parts[start : start + step]
        requests = [
            RankRequest(
                int(dataset.user_ids[users[user]]),
                dataset.posts.ids[posts].tolist(),
                cache_policy=CachePolicy.BYPASS,
            )
            for user, posts in some
        ]
        for (user, _), answer in zip(some, await answers_of(client, requests), strict=True):
            at = index_of(np.array(answer.post_ids, np.int64), dataset.posts.ids)
            scores[user, at] = answer.scores
    if missing := int(np.isnan(scores).sum()):
        raise RuntimeError(f"{missing:,} posts got no score")
    return ScoreTable(users, scores)
