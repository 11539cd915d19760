"""The best of lists, each ordered by its own values."""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from animora_server.catalog import CatalogSnapshot
from animora_server.compiling import FLAGS, IDS, IDS_OUT, SCORES, SCORES_OUT, TIMES, compiled, tuple_of
from animora_server.ranker.candidates import Block, Candidates
from animora_server.ranker.relevance import best_first, probabilities
from animora_server.types import BoolArray, DoubleArray, FloatArray, IntArray
from animora_server.values import value

FEW = 64  # so many of the best are found sooner by keeping them in order in one pass than by sorting


@value
class Best:
    """The best of a list, best first.

    Attributes:
        positions: int64 (n), among the candidates.
        post_ids: int64 (n).
        values: float32 (n), what they were ordered by.
        probabilities: float32 (n), the probabilities of which the values are the logits.
    """

    positions: IntArray
    post_ids: IntArray
    values: FloatArray
    probabilities: FloatArray


def best_of_each(
    snapshot: CatalogSnapshot,
    lists: Sequence[Candidates],
    values: Sequence[FloatArray],
    limits: Sequence[int],
) -> list[Best]:
    """The best of the eligible ones of each list: by value, then newer, then larger id.

    Args:
        snapshot: The catalog that the candidates' rows are of.
        lists: k candidates each.
        values: float32 (k) for each list, finite.
        limits: For each list, the best so many; 0 for all.
    """
    if not lists:
        return []
    block, starts = _in_one_block(lists)
    sizes = [len(candidates) for candidates in lists]
    wanted = [min(limit, size) if limit else size for limit, size in zip(limits, sizes, strict=True)]
    firsts = [end - many for end, many in zip(accumulate(wanted), wanted, strict=True)]
    room = sum(wanted)  # each list has some for what is wanted of it
    positions, post_ids = np.empty(room, np.int64), np.empty(room, np.int64)
    best_values = np.empty(room, np.float32)
    found = np.zeros(len(lists), np.int64)
    all_values = np.concatenate(values)
    bounds = np.array(starts), np.array(sizes), np.array(wanted)
    _find_few(
        all_values,
        (block.eligible, block.post_ids, block.rows, snapshot.created_at),
        bounds,
        (positions, found),
    )
    for number, many in enumerate(wanted):
        if many > FEW:
            best = _best_of(snapshot, lists[number], values[number], limits[number])
            found[number] = len(best)
            positions[firsts[number] :][: len(best)] = best
    _look_up(
        (all_values, block.post_ids),
        (*bounds, found),
        positions,
        (post_ids, best_values),
    )
    scores = probabilities(best_values)
    ends = [first + count for first, count in zip(firsts, found.tolist(), strict=True)]
    return [
        Best(positions[first:end], post_ids[first:end], best_values[first:end], scores[first:end])
        for first, end in zip(firsts, ends, strict=True)
    ]


def _in_one_block(lists: Sequence[Candidates]) -> tuple[Block, list[int]]:
    """One block with the candidates of lists (b), as they mostly come, and where each starts in it."""
    block = lists[0].block
    if all([candidates.block is block for candidates in lists]):
        return block, [candidates.start for candidates in lists]
    joint = Block(
        np.concatenate([candidates.post_ids for candidates in lists]),
        np.concatenate([candidates.rows for candidates in lists]),
        np.concatenate([candidates.eligible for candidates in lists]),
    )
    return joint, [0, *accumulate(map(len, lists[:-1]))]


def _best_of(snapshot: CatalogSnapshot, candidates: Candidates, values: FloatArray, limit: int) -> IntArray:
    """Positions of the best, best first: int64 (n)."""
    shown = np.flatnonzero(candidates.eligible)
    created_at = snapshot.created_at[candidates.rows[shown]]
    return shown[best_first(values[shown], created_at, candidates.post_ids[shown], limit)]


@compiled(
    SCORES,
    tuple_of(FLAGS, IDS, IDS, TIMES),
    tuple_of(IDS, IDS, IDS),
    tuple_of(IDS_OUT, IDS_OUT),
)
def _find_few(
    values: FloatArray,
    facts: tuple[BoolArray, IntArray, IntArray, DoubleArray],
    lists: tuple[IntArray, IntArray, IntArray],
    out: tuple[IntArray, IntArray],
) -> None:
    """Keeps the best few of each list in order, in one pass; a list of which many are wanted is left out.

    Args:
        values: float32 (n), of the candidates of lists (b), one list's after another's.
        facts: Of a block of candidates (m) who is eligible, the ids, and the rows; and by row when they were
            made.
        lists: int64 (b), where each starts in the block, how many it has, and how many are wanted.
        out: Gets the positions in the list of the best of each, best first, one list's after another's with
            room for what is wanted of each; and how many of each there are, int64 (b).
    """
    eligible, post_ids, rows, created_at = facts
    starts, sizes, wanted = lists
    best, found = out
    first_value = first = 0
    for number in range(len(sizes)):
        start, limit, count = starts[number], wanted[number], 0
        for one in range(sizes[number] if limit <= FEW else 0):
            if not eligible[start + one]:
                continue
            value = values[first_value + one]
            place = count
            while place > 0:
                other = best[first + place - 1]
                other_value = values[first_value + other]
                if value != other_value:
                    ahead = value > other_value
                else:
                    this, that = rows[start + one], rows[start + other]
                    if created_at[this] != created_at[that]:
                        ahead = created_at[this] > created_at[that]
                    else:
                        ahead = post_ids[start + one] > post_ids[start + other]
                if not ahead:
                    break
                if place < limit:
                    best[first + place] = other
                place -= 1
            if place < limit:
                best[first + place] = one
                count = min(count + 1, limit)
        found[number] = count
        first_value += sizes[number]
        first += limit


@compiled(
    tuple_of(SCORES, IDS),
    tuple_of(IDS, IDS, IDS, IDS),
    IDS,
    tuple_of(IDS_OUT, SCORES_OUT),
)
def _look_up(
    candidates: tuple[FloatArray, IntArray],
    lists: tuple[IntArray, IntArray, IntArray, IntArray],
    positions: IntArray,
    out: tuple[IntArray, FloatArray],
) -> None:
    """Finds the ids and values of the best, whose positions are as `_find_few` gives them.

    Args:
        candidates: Their values, one list's after another's; the block's ids.
        lists: As in `_find_few`, and how many were found.
        positions: int64.
        out: Gets what is found.
    """
    values, post_ids = candidates
    starts, sizes, wanted, found = lists
    best_ids, best_values = out
    first_value = first = 0
    for number in range(len(sizes)):
        for at in range(first, first + found[number]):
            best_ids[at] = post_ids[starts[number] + positions[at]]
            best_values[at] = values[first_value + positions[at]]
        first_value += sizes[number]
        first += wanted[number]
