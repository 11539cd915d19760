"""The best of the candidates of queries, each query's by themselves."""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from animora_server.catalog import CatalogSnapshot
from animora_server.fast_dataclass import fast_dataclass
from animora_server.jit import FLAGS, IDS, IDS_OUT, SCORES, TIMES, jit, tuple_of
from animora_server.ranker.candidates import Candidates
from animora_server.scoring.transforms import best_first
from animora_server.types import BoolArray, DoubleArray, FloatArray, IntArray

MAX_INSERTION_SIZE = (
    64  # so many of the best are found sooner by keeping them in order in one pass than by sorting
)


@fast_dataclass
class TopK:
    """The best of each query's candidates, best first, one query's after another's.

    Attributes:
        positions: int64 (n), among the candidates of all.
        post_ids: int64 (n).
        values: float32 (n), what they were ordered by.
        slices: Where each query's are; between them may be what belongs to none.
    """

    positions: IntArray
    post_ids: IntArray
    values: FloatArray
    slices: list[slice]


def top_k(
    snapshot: CatalogSnapshot, candidates: Candidates, values: FloatArray, limits: Sequence[int]
) -> TopK:
    """The best of the eligible ones of each query: by value, then newer, then larger id.

    Args:
        snapshot: The catalog that the candidates' rows are of.
        candidates: n, of queries (b).
        values: float32 (n), finite.
        limits: b, the best so many of each; 0 for all.
    """
    sizes = candidates.sizes.tolist()
    wanted = [min(limit, size) if limit else size for limit, size in zip(limits, sizes, strict=True)]
    room = list(accumulate(wanted))
    positions, found = np.zeros(sum(wanted), np.int64), np.zeros(len(sizes), np.int64)
    _find_few(
        values,
        (candidates.eligible, candidates.post_ids, candidates.rows, snapshot.created_at),
        (candidates.ends, np.array(wanted)),
        (positions, found),
    )
    firsts = [0, *room]
    for number, span in enumerate(candidates.slices if max(wanted) > MAX_INSERTION_SIZE else ()):
        if wanted[number] > MAX_INSERTION_SIZE:
            best = _best_of(snapshot, candidates, span, values[span], limits[number])
            found[number] = len(best)
            positions[firsts[number] :][: len(best)] = best
    return TopK(
        positions,
        candidates.post_ids[positions],
        values[positions],
        [slice(first, first + many) for first, many in zip(firsts, found.tolist(), strict=False)],
    )


def _best_of(
    snapshot: CatalogSnapshot, candidates: Candidates, span: slice, values: FloatArray, limit: int
) -> IntArray:
    """Positions of the best of one query's candidates, which have these values: int64 (n)."""
    shown = span.start + np.flatnonzero(candidates.eligible[span])
    created_at = snapshot.created_at[candidates.rows[shown]]
    order = best_first(values[shown - span.start], created_at, candidates.post_ids[shown], limit)
    return np.asarray(shown[order])


@jit(
    SCORES,
    tuple_of(FLAGS, IDS, IDS, TIMES),
    tuple_of(IDS, IDS),
    tuple_of(IDS_OUT, IDS_OUT),
)
def _find_few(
    values: FloatArray,
    candidates: tuple[BoolArray, IntArray, IntArray, DoubleArray],
    lists: tuple[IntArray, IntArray],
    out: tuple[IntArray, IntArray],
) -> None:
    """Keeps the best few of each list in order, in one pass; a list of which many are wanted is left out.

    Args:
        values: float32 (n), of the candidates of lists (b), one list's after another's.
        candidates: Who is eligible, their ids, and their rows; and by row when they were made.
        lists: int64 (b), where each ends, and how many of it are wanted.
        out: Gets the positions of the best of each, best first, one list's after another's with room for what
            is wanted of each; and how many of each there are, int64 (b).
    """
    eligible, post_ids, rows, created_at = candidates
    ends, wanted = lists
    best, found = out
    start = first = 0
    for number in range(len(ends)):
        limit, count = wanted[number], 0
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
