import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from animora_server.catalog import CsrIndex, CsrIndexBuilder

ids = st.one_of(st.integers(-3, 3), st.integers(-(2**63), 2**63 - 1), st.integers(2**31 - 2, 2**31 + 1))
parts = st.lists(st.lists(st.tuples(ids, ids), max_size=20), max_size=5)


@given(parts)
def test_an_index_of_parts_equals_that_of_all_pairs(parts):
    builder = CsrIndexBuilder()
    for part in parts:
        columns = np.array(part, np.int64).reshape(-1, 2)
        builder.add(columns[:, 0].copy(), columns[:, 1].copy())

    built = builder.build()

    pairs = np.array([pair for part in parts for pair in part], np.int64).reshape(-1, 2)
    expected = CsrIndex.of(pairs[:, 0], pairs[:, 1])
    assert built.keys.tolist() == expected.keys.tolist()
    assert built.offsets.tolist() == expected.offsets.tolist()
    assert built.members.tolist() == expected.members.tolist()
    assert built.members.dtype == expected.members.dtype


def test_a_builder_is_empty_after_build():
    builder = CsrIndexBuilder()
    builder.add(np.array([1]), np.array([2]))
    assert builder.build().members_of(1).tolist() == [2]

    assert len(builder.build().keys) == 0


@given(st.lists(st.tuples(ids, ids)))
def test_pairs_are_those_of_which_the_index_was_made(pairs):
    columns = np.array(pairs, np.int64).reshape(-1, 2)

    keys, members = CsrIndex.of(columns[:, 0], columns[:, 1]).pairs()

    assert list(zip(keys.tolist(), members.tolist(), strict=True)) == sorted(set(pairs))
