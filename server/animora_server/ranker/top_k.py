"""Top-k: the best candidates of each query, in one pass over all queries."""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from animora_server.catalog import CatalogSnapshot
from animora_server.fast_dataclass import fast_dataclass
from animora_server.jit import FLAGS, IDS, IDS_OUT, SCORES, TIMES, jit, tuple_of
from animora_server.ranker.candidates import Candidates
from animora_server.scoring.transforms import best_first
from animora_server.types import BoolArray, DoubleArray, FloatArray, IntArray

MAX_INSERTION_SIZE = 64  # up to this k, an insertion sort in one pass is faster than sorting all candidates


@fast_dataclass
class TopK:
    """The best candidates of each query (b), concatenated, best first in each query.

    Attributes:
        positions: int64 (n), positions among the candidates of all queries.
        post_ids: int64 (n).
        values: float32 (n), the values that they are ordered by.
        slices: b slices, where the candidates of each query are; entries outside them are undefined.
    """

    positions: IntArray
    post_ids: IntArray
    values: FloatArray
    slices: list[slice]


def top_k(
    snapshot: CatalogSnapshot, candidates: Candidates, values: FloatArray, limits: Sequence[int]
) -> TopK:
    """Orders the eligible candidates of each query: by value, then the newer post, then the larger id.

    Args:
        snapshot: The catalog snapshot that the candidates' rows belong to.
        candidates: The candidates (n) of queries (b).
        values: float32 (n), finite.
        limits: How many candidates to return for each query (b); 0 for all.
    """
    sizes = candidates.sizes.tolist()
    capacities = [min(limit, size) if limit else size for limit, size in zip(limits, sizes, strict=True)]
    offsets = [0, *accumulate(capacities)]
    positions, found = np.zeros(sum(capacities), np.int64), np.zeros(len(sizes), np.int64)
    _insertion_top_k(
        values,
        (candidates.eligible, candidates.post_ids, candidates.rows, snapshot.created_at),
        (candidates.ends, np.array(capacities)),
        (positions, found),
    )
    for number, span in enumerate(candidates.slices if max(capacities) > MAX_INSERTION_SIZE else ()):
        if capacities[number] > MAX_INSERTION_SIZE:
            best = _sorted_top_k(snapshot, candidates, span, values[span], limits[number])
            found[number] = len(best)
            positions[offsets[number] :][: len(best)] = best
    return TopK(
        positions,
        candidates.post_ids[positions],
        values[positions],
        [slice(first, first + count) for first, count in zip(offsets, found.tolist(), strict=False)],
    )


def _sorted_top_k(
    snapshot: CatalogSnapshot, candidates: Candidates, span: slice, values: FloatArray, limit: int
) -> IntArray:
    """Positions int64 (k) of the best candidates of one query, by sorting.

    Args:
        snapshot: The catalog snapshot.
        candidates: The candidates of all queries.
        span: Where the candidates (m) of the query are.
        values: float32 (m), their values.
        limit: How many to return; 0 for all.
    """
    eligible = span.start + np.flatnonzero(candidates.eligible[span])
    created_at = snapshot.created_at[candidates.rows[eligible]]
    order = best_first(values[eligible - span.start], created_at, candidates.post_ids[eligible], limit)
    return np.asarray(eligible[order])


@jit(
    SCORES,
    tuple_of(FLAGS, IDS, IDS, TIMES),
    tuple_of(IDS, IDS),
    tuple_of(IDS_OUT, IDS_OUT),
)
def _insertion_top_k(
    values: FloatArray,
    candidates: tuple[BoolArray, IntArray, IntArray, DoubleArray],
    queries: tuple[IntArray, IntArray],
    out: tuple[IntArray, IntArray],
) -> None:
    """Finds the best candidates of each query by insertion, in one pass.

    A query whose capacity is above MAX_INSERTION_SIZE is skipped.

    Args:
        values: float32 (n), the values of the candidates of all queries.
        candidates: Eligibility bool (n), post ids int64 (n), catalog rows int64 (n); creation times by row.
        queries: int64 (b) each: where the candidates of each query end, and its capacity.
        out: Written to: the positions of the best candidates, int64, of which each query has its capacity;
            and how many of them are set, int64 (b).
    """
    eligible, post_ids, rows, created_at = candidates
    ends, capacities = queries
    best, found = out
    start = first = 0
    for number in range(len(ends)):
        limit, count = capacities[number], 0
        for one in range(start, ends[number] if limit <= MAX_INSERTION_SIZE else start):
            if not eligible[one]:
                continue
            value = values[one]
            place = count
            while place > 0:
                other = best[first + place - 1]
                other_value = values[other]
                if value != other_value:
                    ahead = value > other_value
                elif created_at[rows[one]] != created_at[rows[other]]:
                    ahead = created_at[rows[one]] > created_at[rows[other]]
                else:
                    ahead = post_ids[one] > post_ids[other]
                if not ahead:
                    break
                if place < limit:
                    best[first + place] = other
                place -= 1
            if place < limit:
                best[first + place] = one
                count = min(count + 1, limit)
        found[number] = count
        start = ends[number]
        first += limit
