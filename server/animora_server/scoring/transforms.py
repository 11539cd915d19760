"""Transforms of scores: imputation, probabilities, order."""

import asyncio
import math

import numpy as np

from animora_server.errors import InvalidScores
from animora_server.jit import SCORES, SCORES_OUT, jit
from animora_server.scoring.protocols import ScoringModel
from animora_server.types import BoolArray, DoubleArray, FloatArray, IntArray

SMALLEST_SCORE = float(np.finfo(np.float32).eps) / 2


async def logits(model: ScoringModel, user_row: int, rows: IntArray, deadline: float | None) -> FloatArray:
    """Logits float32 (m) of a user for the posts at catalog rows int64 (m), imputed by `impute_featureless`.

    Raises:
        ScoringFailed: The model cannot answer, or not before the deadline (event loop's clock).
    """
    return impute_featureless(await model.score(user_row, rows, deadline), model.has_features(rows))


def impute_featureless(values: FloatArray, has_features: BoolArray) -> FloatArray:
    """Replaces the logits of posts without features by the median of the user's other logits.

    The model's logit for a post with neither a trained id nor an embedding carries no information.

    Args:
        values: float32 (m), one user's logits; not changed.
        has_features: bool (m), whether the model knows the id or an embedding of each post.

    Raises:
        InvalidScores: A logit is not finite.
    """
    if not are_finite(values):
        raise InvalidScores
    if has_features.all() or not has_features.any():
        return values
    filled = values.copy()
    filled[~has_features] = np.median(values[has_features])
    return filled


@jit(SCORES)
def are_finite(values: FloatArray) -> bool:
    """Whether all values float32 (m) are finite."""
    for value in values:  # noqa: SIM110  # Numba compiles loops, not `all`
        if not math.isfinite(value):
            return False
    return True


def probabilities(values: FloatArray) -> FloatArray:
    """The sigmoid of logits float32 (m): float32 (m), computed in float64, so without overflow."""
    scores = np.empty_like(values)
    _sigmoids(values, scores)
    return scores


@jit(SCORES, SCORES_OUT)
def _sigmoids(values: FloatArray, scores: FloatArray) -> None:
    for at in range(len(values)):
        scores[at] = 1 / (1 + math.exp(-min(max(float(values[at]), -700.0), 700.0)))


def log_odds(scores: FloatArray) -> FloatArray:
    """The logits float32 (m) of probabilities float32 (m): the inverse of `probabilities`, up to rounding."""
    # 0 and 1 come from rounding; clipping gives them the logit of the nearest probability between.
    exact = scores.astype(np.float64).clip(SMALLEST_SCORE, 1 - SMALLEST_SCORE)
    return np.asarray(np.log(exact) - np.log1p(-exact), np.float32)


def best_first(values: FloatArray, created_at: DoubleArray, post_ids: IntArray, limit: int = 0) -> IntArray:
    """Positions int64 (n) in descending order of value; ties by newer post, then by larger id.

    Args:
        values: float32 (k).
        created_at: float64 (k), unix seconds.
        post_ids: int64 (k).
        limit: How many to return; 0 for all.
    """
    if not 0 < limit < len(values) // 2:
        order = _ascending(values, created_at, post_ids)[::-1]
        return order[:limit] if limit else order
    # A partition is cheaper than sorting all values. Values that tie with the last one are sorted with them.
    top = np.flatnonzero(values >= np.partition(values, -limit)[-limit])
    return top[_ascending(values[top], created_at[top], post_ids[top])[: -limit - 1 : -1]]


def _ascending(values: FloatArray, created_at: DoubleArray, post_ids: IntArray) -> IntArray:
    """Positions int64 (k) in ascending order, by the keys of `best_first`."""
    # Ties are few: sorting by value, then the ties alone, takes a tenth of the time of a sort by three keys.
    order = np.argsort(values)
    ordered = values[order]
    equals_next = ordered[1:] == ordered[:-1]
    if equals_next.any():
        ties = np.flatnonzero(np.append(equals_next, False) | np.append(False, equals_next))
        tied = order[ties]
        order[ties] = tied[np.lexsort((post_ids[tied], created_at[tied], values[tied]))]
    return order


def expired(deadline: float) -> bool:
    """Whether a deadline (event loop's clock) has passed."""
    return asyncio.get_running_loop().time() >= deadline
