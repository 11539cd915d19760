import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from animora_server.catalog import CsrIndex, CsrIndexBuilder, FeedIndex, IdMap

INT64 = np.iinfo(np.int64)
ids = st.integers(INT64.min, INT64.max)
small_ids = st.integers(-3, 3)


def array(values):
    return np.array(list(values), np.int64)


@given(st.dictionaries(ids, st.integers(0, 9)), st.lists(ids))
def test_an_id_map_finds_what_a_dict_finds(known, queried):
    found = IdMap.of(array(known), array(known.values())).find(array([*queried, *known]))

    assert found.tolist() == [known.get(one, -1) for one in [*queried, *known]]


@given(
    st.integers(INT64.min, INT64.max - 40),
    st.dictionaries(st.integers(0, 40), st.integers(0, 2**33), min_size=1),
    st.lists(ids),
)
def test_an_id_map_finds_dense_ids_in_any_range(first, close, far):
    known = {first + offset: value for offset, value in close.items()}
    queried = [*far, *(one for one in range(first - 2, first + 43) if INT64.min <= one <= INT64.max)]

    found = IdMap.of(array(known), array(known.values())).find(array(queried))

    assert found.tolist() == [known.get(one, -1) for one in queried]


def test_getting_an_absent_id_is_an_error():
    known = IdMap.of(array([7, 8]), array([0, 1]))

    assert known.get(array([8, 7, 8])).tolist() == [1, 0, 1]
    with pytest.raises(LookupError, match="1 of 2 ids"):
        known.get(array([7, 9]))


def test_dense_ids_have_a_direct_address_table():
    near = IdMap.of(array([7, 8, 14]), array([0, 1, 2])).places
    assert near is not None
    assert near.tolist() == [0, 1, -1, -1, -1, -1, -1, 2]
    assert IdMap.of(array([7, 8, 19]), array([0, 1, 2])).places is None
    assert IdMap.of(array([INT64.min, INT64.max]), array([0, 1])).places is None
    assert IdMap.of(array([7, 8]), array([0, 2**31])).places is None
    assert IdMap.empty().places is None


@given(st.dictionaries(small_ids, st.integers(0, 9)), st.dictionaries(small_ids, st.integers(0, 9)))
def test_an_id_map_changes_as_a_dict_changes(before, added):
    id_map = IdMap.of(array(before), array(before.values()))

    changed = id_map.without(array(added)).with_added(array(added), array(added.values()))

    assert dict(zip(changed.ids.tolist(), changed.values.tolist(), strict=True)) == before | added
    assert changed.ids.tolist() == sorted(before | added)
    assert dict(zip(id_map.ids.tolist(), id_map.values.tolist(), strict=True)) == before


@given(st.lists(st.tuples(small_ids, small_ids)))
def test_a_csr_index_holds_the_members_that_a_dict_of_sets_holds(pairs):
    groups = CsrIndex.of(array(key for key, _ in pairs), array(member for _, member in pairs))

    for key in range(-4, 5):
        assert groups.members_of(key).tolist() == sorted({member for other, member in pairs if other == key})


@pytest.mark.parametrize("member", [2**31 - 1, 2**31, -(2**31), -(2**31) - 1, INT64.min, INT64.max])
def test_members_of_any_size_are_kept_exactly(member):
    members = CsrIndex.of(array([7, 7]), array([5, member])).members_of(7)

    assert members.dtype == np.int64
    assert members.tolist() == sorted([5, member])


def test_small_members_take_half_the_bytes():
    wide = CsrIndex.of(array([1, 1]), array([1, 2**40]))

    assert CsrIndex.of(array([1, 1]), array([1, 2])).nbytes == wide.nbytes - 8


times = st.integers(0, 5).map(float)


def columns_of(created_at, deleted):
    """The columns of a table that the feed index reads."""
    return np.array(created_at, np.float64), np.array(deleted, np.bool_)


@st.composite
def tables(draw):
    """Successive tables of one epoch: posts are added, deleted, restored, and change their time."""
    created_at: list[float] = []
    successive_tables = []
    for _ in range(draw(st.integers(1, 5))):
        created_at = created_at + draw(st.lists(times, max_size=6))
        if created_at and draw(st.booleans()):
            created_at = created_at.copy()
            created_at[draw(st.integers(0, len(created_at) - 1))] = draw(times)
        deleted = draw(st.lists(st.booleans(), min_size=len(created_at), max_size=len(created_at)))
        successive_tables.append(columns_of(created_at, deleted))
    return successive_tables


@given(tables())
def test_an_updated_feed_equals_a_rebuilt_one(successive_tables):
    feed = FeedIndex.empty()
    for created_at, deleted in successive_tables:
        feed = feed.updated(created_at, deleted)

        rebuilt = FeedIndex.of(created_at, np.flatnonzero(~deleted))
        assert feed.created_at.tolist() == rebuilt.created_at.tolist()
        assert sorted(feed.rows.tolist()) == sorted(rebuilt.rows.tolist())
        assert created_at[feed.rows].tolist() == feed.created_at.tolist()


def test_posts_of_equal_time_are_in_order_of_arrival():
    feed = FeedIndex.empty().updated(*columns_of([5, 5], [False, False]))

    assert feed.updated(*columns_of([5, 5, 5, 4], [False] * 4)).rows.tolist() == [3, 0, 1, 2]


def test_a_restored_post_is_back_at_its_age():
    feed = FeedIndex.empty().updated(*columns_of([1, 2, 3], [False, True, False]))
    assert feed.rows.tolist() == [0, 2]

    assert feed.updated(*columns_of([1, 2, 3], [False, False, False])).rows.tolist() == [0, 1, 2]


@given(st.lists(times), times, st.integers(1, 4))
def test_newest_returns_the_last_posts_made_since_a_time(created_at, since, limit):
    feed = FeedIndex.of(np.array(created_at, np.float64), np.arange(len(created_at)))

    newest = feed.newest(since, limit)

    expected = sorted(time for time in created_at if time >= since)[-limit:]
    assert [created_at[row] for row in newest] == expected


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
