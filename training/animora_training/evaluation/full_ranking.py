"""Full ranking: ranks of the relevant posts among all posts that a user could be shown."""

from dataclasses import dataclass

import numpy as np

from animora_training.data.dataset import ABSENT, IntArray, Posts
from animora_training.evaluation.metrics import Scores, require_finite
from animora_training.evaluation.recommender import SCORES_AT_ONCE, Recommender, user_chunks
from animora_training.evaluation.task import RankingTask, within


@dataclass(frozen=True, slots=True)
class CatalogRanks:
    """Ranks of a task's relevant posts.

    Attributes:
        rows: int64 (r), the task's row of each relevant post, ascending.
        before: int64 (r), number of irrelevant posts before each relevant one in the server's order.
        higher: int64 (r), number of irrelevant posts with a higher score.
        ties: int64 (r), number of irrelevant posts with the same score.
        irrelevant: int64 (m), number of irrelevant posts in each row.
        lists: int64 (m, length), the best posts of each row, unordered; padded with ABSENT.
    """

    rows: IntArray
    before: IntArray
    higher: IntArray
    ties: IntArray
    irrelevant: IntArray
    lists: IntArray


def rank_catalog(recommender: Recommender, task: RankingTask, posts: Posts, length: int = 10) -> CatalogRanks:
    """Ranks each row's relevant posts among all posts of the task.

    The order is the server's: by score, then the newer post, then the larger id.

    Args:
        recommender: The recommender to evaluate.
        task: The ranking task.
        posts: The data set's.
        length: Length of `lists`.

    Raises:
        NotFinite: A score is not finite.
    """
    newest_first = np.lexsort((posts.ids, posts.created))[::-1]
    columns = newest_first[task.eligible[newest_first]]  # so a tie is won by the earlier column
    column_of = np.full(len(posts.ids), ABSENT, np.int64)
    column_of[columns] = np.arange(len(columns))
    found: list[tuple[IntArray, IntArray, IntArray]] = []
    irrelevant = np.zeros(len(task.users), np.int64)
    lists = np.full((len(task.users), length), ABSENT, np.int64)
    for some in user_chunks(len(task.users), len(columns)):
        scores = recommender.catalog(task.users[some])[:, columns]
        require_finite(scores)
        rows, wanted = within(task.relevant, some)
        at = column_of[wanted]
        own = scores[rows, at]
        hidden_rows, hidden_posts = within(task.hidden, some)
        hidden_columns = column_of[hidden_posts]
        shown = hidden_columns != ABSENT
        scores[hidden_rows[shown], hidden_columns[shown]] = -np.inf
        scores[task.first_seen[columns] > task.moments[some, None]] = -np.inf
        scores[rows, at] = own
        lists[some] = _first(scores, columns, length)
        scores[rows, at] = -np.inf
        irrelevant[some] = np.sum(scores > -np.inf, axis=1)
        found.append(_count(scores, rows, at, own))
    before, higher, ties = (
        np.concatenate([np.zeros(0, np.int64), *column])
        for column in (zip(*found, strict=True) if found else ((),) * 3)
    )
    return CatalogRanks(task.relevant[0], before, higher, ties, irrelevant, lists)


def _count(scores: Scores, rows: IntArray, at: IntArray, own: Scores) -> tuple[IntArray, IntArray, IntArray]:
    """For own scores (r) at columns `at`: how many scores of the row are before, higher and equal."""
    higher, ties, earlier = (np.zeros(len(rows), np.int64) for _ in range(3))
    width = scores.shape[1]
    step = max(SCORES_AT_ONCE // max(width, 1), 1)
    for start in range(0, len(rows), step):
        some = slice(start, start + step)
        others, mine = scores[rows[some]], own[some, None]
        higher[some] = np.sum(others > mine, axis=1)
        equal = others == mine
        ties[some] = np.sum(equal, axis=1)
        earlier[some] = np.sum(equal & (np.arange(width) < at[some, None]), axis=1)
    return higher + earlier, higher, ties


def _first(scores: Scores, columns: IntArray, length: int) -> IntArray:
    """The best posts int64 (m, length) by score; ties are won by the earlier column."""
    lists = np.full((len(scores), length), ABSENT, np.int64)
    count = min(length, scores.shape[1])
    if not count or not len(scores):
        return lists
    last = -np.partition(-scores, count - 1, axis=1)[:, count - 1, None]
    above, tied = scores > last, scores == last
    room = count - np.sum(above, axis=1)[:, None]
    chosen = above | (tied & (np.cumsum(tied, axis=1) <= room))  # exactly `count` in each row
    at = np.nonzero(chosen)[1].reshape(len(scores), count)
    shown = np.take_along_axis(scores, at, axis=1) > -np.inf
    lists[:, :count] = np.where(shown, columns[at], ABSENT)
    return lists
