"""A catalog snapshot knows blocks, and which posts are newer than a timeline from an earlier one."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from animora_server.catalog import (
    NEVER,
    CatalogPosts,
    EmbeddingRecords,
    FeedIndex,
    PostRecords,
    PostTableBuilder,
    Relations,
)
from animora_server.catalog.snapshot import LATE_COMMIT
from tests.support.catalogs import snapshot
from tests.support.embeddings import column

NO_IDS = np.empty(0, np.int64)


def grown(table, post_ids, read_at, *, author=1, created_at=0.0, removed=NO_IDS):
    """The table after a reading that found `posts`."""
    count = len(post_ids)
    found = PostRecords(
        np.array(post_ids, np.int64), np.full(count, author), np.full(count, created_at),
        np.full(count, NEVER), np.zeros(count, np.bool_),
    )  # fmt: skip
    builder = PostTableBuilder(table, found, table.outdated(found))
    nothing = column([None] * count)
    builder.add(EmbeddingRecords(found.ids, nothing, nothing))
    return builder.finish(np.array(removed, np.int64), read_at)


def newer_than(table, read_at, limit=100):
    """Ids of the posts that are newer in a snapshot of this table."""
    with_table = replace(
        snapshot({}),
        post_ids=table.post_ids,
        deleted=table.deleted,
        arrived_at=table.arrived_at,
        feed=FeedIndex.empty().updated(table.created_at, table.deleted),
    )
    return sorted(table.post_ids[with_table.newer_than(read_at, limit)].tolist())


@pytest.fixture
def table():
    """Posts 1 and 2 arrive at 100, 3 at 200, 4 and 5 at 300."""
    loaded = grown(CatalogPosts.empty(None), [1, 2], 100.0)
    return grown(grown(loaded, [3], 200.0), [4, 5], 300.0)


@pytest.mark.parametrize(
    ("read_at", "newer"), [(100.0, [3, 4, 5]), (199.9, [3, 4, 5]), (200.0, [4, 5]), (300.0, []), (400.0, [])]
)
def test_newer_posts_are_those_that_arrived_later(table, read_at, newer):
    assert newer_than(table, read_at) == newer


def test_a_removed_post_is_not_newer(table):
    assert newer_than(grown(table, [], 400.0, removed=[4]), 200.0) == [5]


def test_an_edited_post_is_newer_again(table):
    assert newer_than(grown(table, [1], 400.0, author=2), 300.0) == [1]


def test_a_clock_that_steps_back_hides_no_post(table):
    later = grown(grown(table, [6], 150.0), [7], 310.0)

    assert newer_than(later, 200.0) == [4, 5, 6, 7]
    assert newer_than(later, 300.0) == [7]


def test_posts_made_shortly_before_an_older_timeline_are_newer():
    loaded = grown(CatalogPosts.empty(None), [1], 1e6, created_at=1e6 - 899 - LATE_COMMIT)
    loaded = grown(loaded, [2], 1e6, created_at=1e6 - 901 - LATE_COMMIT)
    later = grown(loaded, [3], 1e6 + 1, created_at=0.0)  # of old, and committed just now

    assert newer_than(later, 1e6 - 900) == [1, 3]


def test_a_post_made_and_arrived_lately_is_listed_once():
    loaded = grown(CatalogPosts.empty(None), [4, 5], 1e6, created_at=1e6 - 10)
    later = grown(loaded, [2, 3], 1e6 + 1, created_at=1e6 + 1)
    later = grown(later, [1], 1e6 + 2, created_at=1e6 - 5)

    assert newer_than(later, 1e6 - 1) == [1, 2, 3, 4, 5]
    assert newer_than(later, 1e6) == [1, 2, 3]


def test_only_the_latest_newer_posts_are_considered():
    table = grown(CatalogPosts.empty(None), range(50), 1e6, created_at=1e6 - 5)
    table = grown(table, range(100, 150), 1e6 + 1)

    assert newer_than(table, 1e6 - 10, limit=3) == [47, 48, 49, 147, 148, 149]
    assert newer_than(table, 1e6, limit=3) == [147, 148, 149]


def test_an_empty_catalog_has_no_newer_posts():
    assert newer_than(CatalogPosts.empty(None), 0.0) == []


def test_newer_posts_survive_a_compaction(table):
    crowded = grown(table, range(1000, 4000), 400.0)
    compacted = grown(crowded, [9], 500.0, removed=range(1000, 4000))

    assert compacted.epoch == table.epoch + 1
    assert newer_than(compacted, 200.0) == [4, 5, 9]
    assert newer_than(compacted, 300.0) == [9]


users = st.integers(-2, 3)
pairs = st.tuples(users, users)


def relations_of(blocks):
    columns = np.array(sorted(blocks), np.int64).reshape(-1, 2)
    return Relations.of(columns[:, 0], columns[:, 1])


def related(blocks, user):
    return sorted({b for a, b in blocks if a == user} | {a for a, b in blocks if b == user})


@given(st.sets(pairs), st.lists(st.frozensets(pairs), max_size=4))
def test_notified_blocks_are_added_to_those_of_the_reading(blocks, batches):
    relations = relations_of(blocks)
    for batch in batches:
        relations = relations.with_blocks(batch)
        blocks = blocks | batch

    for user in range(-3, 5):
        assert relations.members_of(user).tolist() == related(blocks, user)
    each = relations.members_of_each(np.arange(-3, 5))
    assert {user - 3: found.tolist() for user, found in each.items() if len(found)} == {
        user: others for user in range(-3, 5) if (others := related(blocks, user))
    }


@given(st.sets(pairs), st.frozensets(pairs))
def test_adding_blocks_does_not_change_earlier_relations(blocks, batch):
    relations = relations_of(blocks)
    relations.with_blocks({(1, 2)}).with_blocks(batch)

    for user in range(-3, 5):
        assert relations.members_of(user).tolist() == related(blocks, user)


def test_any_ids_may_block_each_other():
    lowest, highest = -(2**63), 2**63 - 1

    relations = Relations.empty().with_blocks({(lowest, highest), (0, lowest)})

    assert relations.members_of(lowest).tolist() == [0, highest]
    assert relations.members_of(highest).tolist() == [lowest]
