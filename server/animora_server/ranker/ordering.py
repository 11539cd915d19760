"""The best of many lists, each ordered by its own values, in NumPy's calls over all of them together."""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np

from animora_server.catalog import CatalogSnapshot
from animora_server.ranker.candidates import Candidates
from animora_server.ranker.relevance import best_first, probabilities
from animora_server.types import FloatArray, IntArray
from animora_server.values import value


@value
class Unordered:
    """Candidates (k) with what they are ordered by.

    Attributes:
        snapshot: The catalog that the candidates' rows are of.
        candidates: Of which the eligible ones are ordered.
        values: float32 (k), finite.
        limit: The best so many; 0 for all.
    """

    snapshot: CatalogSnapshot
    candidates: Candidates
    values: FloatArray
    limit: int


@value
class Best:
    """The best of a list, best first.

    Attributes:
        positions: int64 (n), among the candidates.
        values: float32 (n), what they were ordered by.
        probabilities: float32 (n), the probabilities of which the values are the logits.
    """

    positions: IntArray
    values: FloatArray
    probabilities: FloatArray


def best_of_each(lists: Sequence[Unordered]) -> list[Best]:
    """The best of each list: by value, then newer, then larger id."""
    positions = _positions_of_each(lists)
    values = [each.values[best] for each, best in zip(lists, positions, strict=True)]
    together = probabilities(np.concatenate(values))
    ends = accumulate(len(best) for best in positions)
    return [
        Best(best, ordered, together[end - len(best) : end])
        for best, ordered, end in zip(positions, values, ends, strict=True)
    ]


def _positions_of_each(lists: Sequence[Unordered]) -> list[IntArray]:
    eligible = np.concatenate([each.candidates.eligible for each in lists])
    values = np.concatenate([each.values for each in lists])  # float32 (n)
    lengths = np.fromiter((len(each.values) for each in lists), np.int64, len(lists))
    starts = lengths.cumsum() - lengths
    owners = np.arange(len(lists)).repeat(lengths)
    places = np.arange(len(values)) - starts.repeat(lengths)
    if not eligible.all():
        values, owners, places = values[eligible], owners[eligible], places[eligible]
    keys = (owners << 32) - _ranks_of(values)
    order = keys.argsort()
    keys, places = keys[order], places[order]
    bounds = owners.searchsorted(np.arange(len(lists) + 1)).tolist()
    best = [
        places[start : min(end, start + each.limit) if each.limit else end]
        for each, (start, end) in zip(lists, pairwise(bounds), strict=True)
    ]
    same = np.equal(keys[1:], keys[:-1])
    if same.any():  # seldom: then those lists are ordered by all there is to order by
        for number in np.unique(owners[order[1:][same]]).tolist():
            best[number] = _best_of(lists[number])
    return best


def _best_of(unordered: Unordered) -> IntArray:
    candidates = unordered.candidates
    eligible = np.flatnonzero(candidates.eligible)
    return eligible[
        best_first(
            unordered.values[eligible],
            unordered.snapshot.created_at[candidates.rows[eligible]],
            candidates.post_ids[eligible],
            unordered.limit,
        )
    ]


def _ranks_of(values: FloatArray) -> IntArray:
    """Numbers int64 (n) from -2^31 to 2^31 - 1 that compare as finite values float32 (n) do.

    The bits of floats compare as those of integers do, but for the sign: those of negative ones are turned.
    """
    bits = (values + np.float32(0)).view(np.int32)  # the sum makes 0 of -0
    return (bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))).astype(np.int64)
