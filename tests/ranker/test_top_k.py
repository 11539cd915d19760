"""Top-k: the same result as Python's sort."""

from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from animora_server.ranker.candidates import Candidates
from animora_server.ranker.top_k import MAX_INSERTION_SIZE, top_k
from tests.support.catalogs import snapshot

POSTS = 12
# Few different values, so that many tie; the two zeros are equal.
VALUES = st.sampled_from([-3e38, -1.5, -1e-40, -0.0, 0.0, 1e-40, 0.25, 1.5, 3e38]) | st.floats(
    -9, 9, width=32
)
SHOWN = st.lists(st.tuples(VALUES, st.booleans()), max_size=POSTS)
CATALOG = snapshot({10 + post: {"age": float(post % 3)} for post in range(POSTS)})


QueryCandidates = tuple[list[float], list[bool], int]


@dataclass
class TopKOfQuery:
    """The top-k of one query."""

    positions: list[int]
    post_ids: list[int]
    values: list[float]


def best_of(lists: list[QueryCandidates], catalog=CATALOG) -> list[TopKOfQuery]:
    rows = [np.arange(len(values)) for values, _, _ in lists]
    sizes = np.array([len(of_query) for of_query in rows])
    ends = sizes.cumsum()
    at = np.concatenate(rows)
    candidates = Candidates(
        catalog.post_ids[at],
        at,
        np.concatenate([np.array(shown, np.bool_) for _, shown, _ in lists]),
        ends,
        sizes,
        [],
        [],
    )
    values = np.concatenate([np.array(values, np.float32) for values, _, _ in lists])
    best = top_k(catalog, candidates, values, [limit for _, _, limit in lists])
    starts = [0, *ends.tolist()]
    return [
        TopKOfQuery(
            (best.positions[span] - start).tolist(), best.post_ids[span].tolist(), best.values[span].tolist()
        )
        for span, start in zip(best.slices, starts, strict=False)
    ]


def expected(one: QueryCandidates, catalog=CATALOG) -> list[int]:
    """The positions of the top-k, sorted by Python."""
    values, eligible, limit = one
    created, ids = catalog.created_at, catalog.post_ids
    shown = [at for at, shown in enumerate(eligible) if shown]
    order = sorted(shown, key=lambda at: (np.float32(values[at]), created[at], ids[at]), reverse=True)
    return order[: limit or None]


@given(st.lists(st.tuples(SHOWN, st.integers(0, POSTS)), min_size=1, max_size=5))
def test_each_list_is_ordered_by_value_then_newer_then_larger_id(drawn):
    lists = [([value for value, _ in rows], [shown for _, shown in rows], limit) for rows, limit in drawn]
    for one, found in zip(lists, best_of(lists), strict=True):
        assert found.positions == expected(one)
        assert found.post_ids == CATALOG.post_ids[found.positions].tolist()
        assert found.values == np.array(one[0], np.float32)[found.positions].tolist()


def test_insertion_and_sorting_give_the_same_order():
    rng = np.random.default_rng(0)
    catalog = snapshot({post: {"age": float(rng.integers(3))} for post in range(2 * MAX_INSERTION_SIZE)})
    lists: list[QueryCandidates] = []
    for limit in (1, 0, MAX_INSERTION_SIZE, MAX_INSERTION_SIZE + 1, 3 * MAX_INSERTION_SIZE, 2):
        values = rng.integers(0, 20, 2 * MAX_INSERTION_SIZE).astype(float).tolist()
        lists.append((values, (rng.random(2 * MAX_INSERTION_SIZE) < 0.9).tolist(), limit))
    for one, found in zip(lists, best_of(lists, catalog), strict=True):
        assert found.positions == expected(one, catalog)


def test_a_query_without_eligible_candidates_has_an_empty_top_k():
    lists: list[QueryCandidates] = [
        ([1.0], [False], 0),
        ([1.0, 2.0], [True, True], 1),
        ([], [], 0),
        ([1.0], [False], 1),
    ]
    assert [found.positions for found in best_of(lists)] == [[], [1], [], []]
