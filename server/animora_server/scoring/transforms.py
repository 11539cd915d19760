"""How much a user is likely to care for posts: the model's logits, made safe to order by."""

import asyncio
import math

import numpy as np

from animora_server.errors import (
    DeadlineUnreachable,
    DeviceFault,
    InvalidScores,
    ModelUnavailable,
    Overloaded,
    ScoringFailed,
)
from animora_server.jit import SCORES, SCORES_OUT, jit
from animora_server.scoring.protocols import ScoringModel
from animora_server.types import BoolArray, DegradedReason, DoubleArray, FloatArray, IntArray

SMALLEST_SCORE = float(np.finfo(np.float32).eps) / 2
DEGRADED: dict[type[ScoringFailed], DegradedReason] = {
    ModelUnavailable: DegradedReason.NO_MODEL,
    Overloaded: DegradedReason.OVERLOADED,
    DeadlineUnreachable: DegradedReason.DEADLINE,
    DeviceFault: DegradedReason.DEVICE_FAULT,
    InvalidScores: DegradedReason.INVALID_SCORES,
}


async def logits(model: ScoringModel, user_row: int, rows: IntArray, deadline: float | None) -> FloatArray:
    """Logits float32 (m), as `impute_featureless` gives them, of the posts at catalog rows int64 (m).

    Raises:
        ScoringFailed: The model cannot answer, or not before the deadline (event loop's clock).
    """
    return impute_featureless(await model.score(user_row, rows, deadline), model.has_features(rows))


def impute_featureless(values: FloatArray, has_features: BoolArray) -> FloatArray:
    """A user's logits float32 (m), the uninformed ones replaced by the median of the others.

    A post with neither a trained id nor an embedding says nothing about itself.

    Args:
        values: float32 (m), from the model.
        has_features: bool (m), whether the model knows the id or an embedding of each post.

    Raises:
        InvalidScores: One is not finite.
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
    """Whether all of values float32 (m) are."""
    for value in values:  # noqa: SIM110  # a loop
        if not math.isfinite(value):
            return False
    return True


def probabilities(values: FloatArray) -> FloatArray:
    """Sigmoids float32 of logits float32, in float64: no overflow, and no rounding but the last."""
    scores = np.empty_like(values)
    _sigmoids(values, scores)
    return scores


@jit(SCORES, SCORES_OUT)
def _sigmoids(values: FloatArray, scores: FloatArray) -> None:
    for at in range(len(values)):
        scores[at] = 1 / (1 + math.exp(-min(max(float(values[at]), -700.0), 700.0)))


def log_odds(scores: FloatArray) -> FloatArray:
    """Logits float32 of probabilities float32, as far as they can be told from those."""
    # A score that rounding made 0 or 1 has the logit of the nearest that it did not.
    exact = scores.astype(np.float64).clip(SMALLEST_SCORE, 1 - SMALLEST_SCORE)
    return np.asarray(np.log(exact) - np.log1p(-exact), np.float32)


def best_first(values: FloatArray, created_at: DoubleArray, post_ids: IntArray, limit: int = 0) -> IntArray:
    """Positions int64 (n) by value, ties by newer, then by larger id.

    Args:
        values: float32 (k).
        created_at: float64 (k), unix seconds.
        post_ids: int64 (k).
        limit: The best so many; 0 for all.
    """
    if not 0 < limit < len(values) // 2:
        order = _ascending(values, created_at, post_ids)[::-1]
        return order[:limit] if limit else order
    # Sorting a few is worth a pass over all; whatever ties with the last of them stays in.
    at = np.flatnonzero(values >= np.partition(values, -limit)[-limit])
    return at[_ascending(values[at], created_at[at], post_ids[at])[: -limit - 1 : -1]]


def _ascending(values: FloatArray, created_at: DoubleArray, post_ids: IntArray) -> IntArray:
    """Positions int64 (k), worst first."""
    # Ties are few: sorting by value, and then what ties, takes a tenth of the time of sorting by three keys.
    order = np.argsort(values)
    ordered = values[order]
    same = ordered[1:] == ordered[:-1]
    if same.any():
        places = np.flatnonzero(np.append(same, False) | np.append(False, same))  # of all that tie
        tied = order[places]
        order[places] = tied[np.lexsort((post_ids[tied], created_at[tied], values[tied]))]
    return order


def degraded_reason(failure: ScoringFailed) -> DegradedReason:
    """What to tell of a failure of the model."""
    return next(reason for kind, reason in DEGRADED.items() if isinstance(failure, kind))


def expired(deadline: float) -> bool:
    """Whether a deadline (event loop's clock) has passed."""
    return asyncio.get_running_loop().time() >= deadline
