"""Ranks of held-out posts, and means over users: hit ratio, NDCG and AUC."""

import math

import numpy as np
import numpy.typing as npt

from animora_training.data.dataset import BoolArray, DoubleArray, IntArray
from animora_training.errors import NotFinite

Scores = npt.NDArray[np.floating]


def held_out_ranks(scores: Scores, present: BoolArray, created: DoubleArray, ids: IntArray) -> IntArray:
    """Number of candidates before the held-out post, which is column 0 of every argument.

    The order is the server's: by score, then the newer post, then the larger id.

    Args:
        scores: floating (m, 1 + k).
        present: bool (m, 1 + k), False for padding.
        created: float64 (m, 1 + k), seconds since the epoch.
        ids: int64 (m, 1 + k).

    Returns:
        int64 (m), 0 for the best.

    Raises:
        NotFinite: The score of a candidate is not finite.
    """
    require_finite(scores[present])
    equal = scores[:, 1:] == scores[:, :1]
    same_age = created[:, 1:] == created[:, :1]
    newer = (created[:, 1:] > created[:, :1]) | (same_age & (ids[:, 1:] > ids[:, :1]))
    before = (scores[:, 1:] > scores[:, :1]) | (equal & newer)
    ranks: IntArray = np.sum(before & present[:, 1:], axis=1, dtype=np.int64)
    return ranks


def require_finite(scores: Scores) -> None:
    """Raises NotFinite unless all scores (...) are finite."""
    if wrong := int((~np.isfinite(scores)).sum()):
        raise NotFinite(
            f"{wrong:,} of {scores.size:,} scores are not finite numbers, so nothing can be ranked"
        )


def hit_ratio(ranks: IntArray, k: int) -> float:
    """Share of ranks (m) among the first k; 0 without ranks."""
    return float((ranks < k).mean()) if len(ranks) else 0.0


def ndcg(ranks: IntArray, k: int) -> float:
    """Mean of 1 / log2(rank + 2) over ranks (m), 0 beyond the first k; for one relevant post a user."""
    gains = np.where(ranks < k, 1.0 / np.log2(ranks + 2.0), 0.0)
    return float(gains.mean()) if len(gains) else 0.0


def area_under_curve(scores: Scores, relevant: BoolArray) -> float:
    """Probability that a relevant one of scores (m) is above an irrelevant one, ties counting half.

    NaN if all or none are relevant.
    """
    positives = int(relevant.sum())
    negatives = len(relevant) - positives
    if not positives or not negatives:
        return math.nan
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_ranks = np.cumsum(counts) - (counts - 1) / 2  # 1-based
    rank_sum = mean_ranks[inverse][relevant].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


def mean_area_under_curve(scores: Scores, relevant: BoolArray) -> float:
    """Mean AUC over the rows of scores (m, k) with relevant and irrelevant entries; NaN without such rows."""
    areas = [area_under_curve(*row) for row in zip(scores, relevant, strict=True)]
    known = [area for area in areas if not math.isnan(area)]
    return sum(known) / len(known) if known else math.nan
