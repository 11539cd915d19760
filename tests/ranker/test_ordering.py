"""The best of many lists at once: the same as of each by itself."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from animora_server.ranker.candidates import Candidates
from animora_server.ranker.ordering import Unordered, best_of_each
from animora_server.ranker.relevance import probabilities
from tests.ranker.catalogs import snapshot

POSTS = 12
# Few different values, so that many tie; the two zeros are equal.
VALUES = st.sampled_from([-3e38, -1.5, -1e-40, -0.0, 0.0, 1e-40, 0.25, 1.5, 3e38]) | st.floats(
    -9, 9, width=32
)
LISTS = st.lists(
    st.tuples(st.lists(st.tuples(VALUES, st.booleans()), max_size=POSTS), st.integers(0, POSTS)),
    min_size=1,
    max_size=5,
)
CATALOG = snapshot({10 + post: {"age": float(post % 3)} for post in range(POSTS)})


def unordered(rows: list[tuple[float, bool]], limit: int) -> Unordered:
    eligible = np.array([shown for _, shown in rows], np.bool_)
    at = np.arange(len(rows))
    candidates = Candidates(CATALOG.post_ids[at], at, eligible, {}, {})
    return Unordered(CATALOG, candidates, np.array([value for value, _ in rows], np.float32), limit)


def expected(one: Unordered) -> list[int]:
    """Sorted by Python."""
    eligible = np.flatnonzero(one.candidates.eligible).tolist()
    created, ids = CATALOG.created_at, CATALOG.post_ids
    best = sorted(eligible, key=lambda at: (one.values[at], created[at], ids[at]), reverse=True)
    return best[: one.limit] if one.limit else best


@given(LISTS)
def test_each_list_is_ordered_by_value_then_newer_then_larger_id(drawn):
    lists = [unordered(rows, limit) for rows, limit in drawn]
    for one, best in zip(lists, best_of_each(lists), strict=True):
        assert best.positions.tolist() == expected(one)
        assert best.values.tolist() == one.values[best.positions].tolist()
        assert best.probabilities.tolist() == probabilities(best.values).tolist()


def test_a_list_of_which_nothing_may_be_shown_is_empty():
    lists = [unordered([(1.0, False)], 0), unordered([(1.0, True), (2.0, True)], 1), unordered([], 0)]
    assert [best.positions.tolist() for best in best_of_each(lists)] == [[], [1], []]
