"""Ranking metrics by row (user): hit ratio, NDCG, recall, MRR and AUC."""

import math
from collections.abc import Iterator
from itertools import islice

import numpy as np
from scipy.special import gammaln

from animora_training.data.dataset import BoolArray, DoubleArray, IntArray
from animora_training.evaluation.full_ranking import CatalogRanks

CUTOFFS = (1, 5, 10, 20, 50)
SAMPLED = 99

Measures = dict[str, DoubleArray]
"""By name, as in "ndcg@10": float64 (m), one value a row; NaN for undefined values."""


def measures_of_ranks(ranks: IntArray, cutoffs: tuple[int, ...] = CUTOFFS) -> Measures:
    """Metrics of one relevant post a row, from its rank int64 (m), 0 for the best."""
    return rank_measures(np.arange(len(ranks)), ranks, len(ranks), cutoffs)


def full_measures(ranks: CatalogRanks, cutoffs: tuple[int, ...] = CUTOFFS) -> Measures:
    """Metrics of a full ranking: those of rank_measures, and "auc"; NaN in rows without irrelevant posts.

    A row's area under the ROC curve is the probability that a relevant post is above an irrelevant one, ties
    counting half (Mann and Whitney 1947), computed exactly over all irrelevant posts.
    """
    places = np.lexsort((ranks.before, ranks.rows))
    rows = ranks.rows[places]
    # Among a row's relevant posts the n-th best has n relevant ones before it.
    standing = ranks.before[places] + np.arange(len(rows)) - np.searchsorted(rows, rows, side="left")
    measures = rank_measures(rows, standing, len(ranks.irrelevant), cutoffs)
    irrelevant = ranks.irrelevant.astype(np.float64)
    irrelevant[irrelevant == 0] = np.nan
    lost = (ranks.higher + ranks.ties / 2) / irrelevant[ranks.rows]
    measures["auc"] = 1.0 - _mean(ranks.rows, lost, len(irrelevant))
    return {name: np.where(np.isnan(irrelevant), np.nan, values) for name, values in measures.items()}


def rank_measures(
    rows: IntArray, ranks: IntArray, count: int, cutoffs: tuple[int, ...] = CUTOFFS
) -> Measures:
    """Metrics of several relevant posts a row, from their ranks among all posts, relevant ones included.

    "hr@K" is 1 where a relevant post is among the first K. "recall@K" is the share of the relevant posts
    that are. "ndcg@K" is the sum of 1 / log2(rank + 2) over those, divided by what the best order would give
    (Järvelin and Kekäläinen 2002, binary gains). "mrr" is 1 / (rank + 1) of the first relevant post
    (Voorhees 1999).

    Args:
        rows: int64 (r), ascending, the row of each rank.
        ranks: int64 (r), 0 for the best.
        count: Number of rows, m.
        cutoffs: The Ks.
    """
    relevant = np.bincount(rows, minlength=count).astype(np.float64)
    relevant[relevant == 0] = np.nan
    gains = 1.0 / np.log2(ranks + 2.0)
    measures: Measures = {}
    for cutoff in cutoffs:
        inside = ranks < cutoff
        found = np.bincount(rows[inside], minlength=count)
        ideal = np.cumsum(1.0 / np.log2(np.arange(cutoff) + 2.0))
        best = ideal[np.fmin(np.nan_to_num(relevant, nan=1.0), cutoff).astype(np.int64) - 1]
        gained = np.bincount(rows[inside], gains[inside], minlength=count)
        measures[f"hr@{cutoff}"] = np.where(np.isnan(relevant), np.nan, found > 0)
        measures[f"ndcg@{cutoff}"] = np.where(np.isnan(relevant), np.nan, gained / best)
        measures[f"recall@{cutoff}"] = found / relevant
    reciprocal = np.zeros(count)
    np.maximum.at(reciprocal, rows, 1.0 / (ranks + 1.0))
    measures["mrr"] = np.where(np.isnan(relevant), np.nan, reciprocal)
    return measures


def expected_measures(
    ranks: CatalogRanks, sampled: int = SAMPLED, cutoffs: tuple[int, ...] = CUTOFFS
) -> Measures:
    """Expected "hr@K", "ndcg@K" and "mrr" among sampled irrelevant posts, without sampling.

    r of N irrelevant posts are before the relevant one. Of n posts drawn without replacement, the number
    before it is hypergeometric, and the metric is its expectation (Krichene and Rendle, KDD 2020, section 4).
    Several relevant posts of a row are ranked separately and averaged. NaN for a row without irrelevant
    posts.

    Args:
        ranks: A full ranking.
        sampled: n, the number of irrelevant posts drawn; all if there are fewer.
        cutoffs: The Ks.
    """
    total = ranks.irrelevant[ranks.rows]
    gains = {"mrr": 1.0 / (np.arange(sampled + 1.0) + 1.0)}
    for cutoff in cutoffs:
        gains[f"hr@{cutoff}"], gains[f"ndcg@{cutoff}"] = _gains(sampled, cutoff)
    expected = {name: np.zeros(len(total)) for name in gains}
    for place, chances in enumerate(hypergeometric_pmf(ranks.before, total, sampled)):
        for name, gain in gains.items():
            expected[name] += gain[place] * chances
    return {name: _expected(ranks, values) for name, values in expected.items()}


def expected_ndcg(ranks: CatalogRanks, cutoff: int = 10, sampled: int = SAMPLED) -> float:
    """Mean over rows of expected_measures' "ndcg@K", computed faster; 0 without a defined row."""
    total = ranks.irrelevant[ranks.rows]
    gains = _gains(sampled, cutoff)[1]
    chances = islice(hypergeometric_pmf(ranks.before, total, sampled), cutoff)
    expected = sum(
        (gain * chance for gain, chance in zip(gains, chances, strict=False)), np.zeros(len(total))
    )
    known = _expected(ranks, expected)
    known = known[~np.isnan(known)]
    return float(known.mean()) if len(known) else 0.0


def means_of(measures: Measures, rows: BoolArray | None = None) -> dict[str, float]:
    """Mean of each metric over all or some rows, ignoring NaN; NaN without a defined row."""
    means = {}
    for name, values in measures.items():
        chosen = values if rows is None else values[rows]
        known = chosen[~np.isnan(chosen)]
        means[name] = float(known.mean()) if len(known) else math.nan
    return means


def hypergeometric_pmf(before: IntArray, total: IntArray, sampled: int) -> Iterator[DoubleArray]:
    """Yields the probability float64 (r) that 0, 1, … `sampled` drawn posts are before the relevant one.

    The hypergeometric distribution C(r, j) · C(N - r, n - j) / C(N, n), by logarithms of factorials.

    Args:
        before: int64 (r), r: number of irrelevant posts before the relevant one.
        total: int64 (r), N: number of irrelevant posts.
        sampled: n: number of posts drawn; all N if N is smaller.
    """
    logs = gammaln(np.arange(1.0, max(int(total.max(initial=0)), sampled) + 2.0))  # log n! by n
    drawn = np.minimum(total, sampled)
    of_all = logs[total] - logs[drawn] - logs[total - drawn]
    for hits in range(sampled + 1):
        possible = (hits <= before) & (hits <= drawn) & (drawn - hits <= total - before)
        chosen = np.where(possible, hits, 0)
        left = np.where(possible, drawn - chosen, 0)
        log = logs[before] - logs[chosen] - logs[before - chosen]
        log += logs[total - before] - logs[left] - logs[total - before - left]
        yield np.where(possible, np.exp(log - of_all), 0.0)


def _gains(sampled: int, cutoff: int) -> tuple[DoubleArray, DoubleArray]:
    """HR@K and NDCG@K for 0, 1, … n posts before the relevant one, float64 (n + 1) each."""
    places = np.arange(sampled + 1)
    inside = places < cutoff
    return inside.astype(np.float64), np.where(inside, 1.0 / np.log2(places + 2.0), 0.0)


def _expected(ranks: CatalogRanks, values: DoubleArray) -> DoubleArray:
    """Mean of values (r) by row, float64 (m); NaN where a row has none, or no irrelevant post."""
    return np.where(ranks.irrelevant > 0, _mean(ranks.rows, values, len(ranks.irrelevant)), np.nan)


def _mean(rows: IntArray, values: DoubleArray, count: int) -> DoubleArray:
    """Mean of values (r) by row, float64 (m); NaN where a row has none."""
    sizes = np.bincount(rows, minlength=count).astype(np.float64)
    sizes[sizes == 0] = np.nan
    mean: DoubleArray = np.bincount(rows, values, minlength=count) / sizes
    return mean
