from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from animora_server.catalog import (
    NEVER,
    Activity,
    Catalog,
    CsrIndex,
    EmbeddingRecords,
    Histories,
    HistoryIndex,
    IdMap,
    IdPairs,
    InteractionBase,
    Interactions,
    PostRecords,
    PostTableBuilder,
)
from tests.support.embeddings import column

NO_IDS = np.empty(0, np.int64)
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


def ids(*values):
    return np.array(values, np.int64)


def with_posts(table, *post_ids):
    """A table with posts added, author 1 each."""
    found = PostRecords(
        ids(*post_ids), np.ones(len(post_ids), np.int64), np.zeros(len(post_ids)),
        np.full(len(post_ids), NEVER), np.zeros(len(post_ids), np.bool_),
    )  # fmt: skip
    builder = PostTableBuilder(table, found, table.outdated(found))
    builder.add(EmbeddingRecords(found.ids, column([None] * len(found)), column([[1, 1]] * len(found))))
    return builder.finish(NO_IDS, 50.0)


def base_of(counts=(), seen=()):
    return InteractionBase(
        MOMENT,
        IdMap.of(ids(*(post for post, _ in counts)), ids(*(count for _, count in counts))),
        CsrIndex.of(ids(*(user for user, _ in seen)), ids(*(post for _, post in seen))),
    )


def pairs(*values):
    return IdPairs(ids(*(first for first, _ in values)), ids(*(second for _, second in values)))


def interactions(*values):
    """Interactions from pairs of a user and a post: likes, a second apart."""
    return Interactions(
        ids(*(user for user, _ in values)),
        ids(*(post for _, post in values)),
        np.zeros(len(values), np.int8),
        np.arange(len(values)) * 1_000_000,
    )


def activity(base, recent=(), blocks=(), read_at=1.0):
    return Activity(base, interactions(*recent), pairs(*blocks), 1000.0 + read_at, read_at)


@pytest.fixture
def empty(tmp_path):
    return Catalog.empty(tmp_path)


@pytest.fixture
def catalog(empty):
    return empty.refreshed(
        with_posts(empty.posts, 10, 20),
        activity(
            base_of(counts=[(10, 4), (30, 7)], seen=[(1, 10), (1, 30)]),
            recent=[(1, 20), (1, 20), (2, 10)],
            blocks=[(1, 2), (3, 1)],
        ),
    )


def counts(catalog, *post_ids):
    snapshot = catalog.snapshot
    return snapshot.interactions[snapshot.rows(ids(*post_ids))].tolist()


def test_an_empty_catalog_finds_no_posts(empty):
    snapshot = empty.snapshot

    assert len(snapshot) == 0
    assert snapshot.rows(ids(1, -5)).tolist() == [-1, -1]
    assert snapshot.related_authors(1).tolist() == []
    assert snapshot.seen_posts(1).tolist() == []


def test_a_count_is_that_of_the_base_plus_recent_interactions(catalog):
    assert counts(catalog, 10, 20) == [5, 2]
    assert catalog.snapshot.max_interactions == 5


def test_a_recount_replaces_the_recent_interactions(catalog):
    after = catalog.refreshed(catalog.posts, activity(catalog.activity.base, recent=[(2, 10)]))

    assert counts(after, 10, 20) == [5, 0]
    assert after.snapshot.seen_posts(1).tolist() == [10, 30]
    assert counts(catalog, 10, 20) == [5, 2]


def test_a_new_base_replaces_the_old_one(catalog):
    after = catalog.refreshed(catalog.posts, activity(base_of(counts=[(20, 1)], seen=[(2, 20)])))

    assert counts(after, 10, 20) == [0, 1]
    assert after.snapshot.seen_posts(1).tolist() == []
    assert after.snapshot.seen_posts(2).tolist() == [20]


def test_a_new_post_has_its_count_of_the_base(catalog):
    after = catalog.refreshed(with_posts(catalog.posts, 30), catalog.activity)

    assert counts(after, 10, 20, 30) == [5, 2, 7]


def test_seen_posts_are_those_of_the_base_and_recent_ones_in_order(catalog):
    assert catalog.snapshot.seen_posts(1).tolist() == [10, 20, 30]
    assert catalog.snapshot.seen_posts(2).tolist() == [10]


def test_a_block_relates_both_users(catalog):
    assert catalog.snapshot.related_authors(1).tolist() == [2, 3]
    assert catalog.snapshot.related_authors(2).tolist() == [1]
    assert catalog.snapshot.related_authors(3).tolist() == [1]


def test_an_unblock_removes_the_relation(catalog):
    after = catalog.refreshed(catalog.posts, activity(catalog.activity.base, blocks=[(3, 1)]))

    assert after.snapshot.related_authors(1).tolist() == [3]


def test_deleted_posts_do_not_count_for_the_maximum(catalog):
    found = catalog.posts.records(ids(10))
    found.deleted[0] = True
    posts = PostTableBuilder(catalog.posts, found, np.array([False])).finish(NO_IDS, 50.0)

    after = catalog.refreshed(posts, catalog.activity)

    assert after.snapshot.max_interactions == 2
    assert after.snapshot.deleted[after.snapshot.rows(ids(10))]


def test_a_refresh_without_changes_shares_everything_but_the_time(catalog):
    same = activity(
        catalog.activity.base, recent=[(1, 20), (1, 20), (2, 10)], blocks=[(1, 2), (3, 1)], read_at=2.0
    )

    after = catalog.refreshed(catalog.posts, same).snapshot

    assert after.blocks_read_at == 2.0
    assert after.index is catalog.snapshot.index
    assert after.relations is catalog.snapshot.relations
    assert after.seen_recent is catalog.snapshot.seen_recent
    assert after.histories.recent is catalog.snapshot.histories.recent


def test_rows_with_embeddings_are_known(catalog):
    snapshot = catalog.snapshot

    assert snapshot.has_embeddings(snapshot.rows(ids(10, 20))).tolist() == [True, True]


def test_nbytes_includes_every_column(catalog):
    bigger = catalog.refreshed(with_posts(catalog.posts, *range(1000, 2000)), catalog.activity)

    table = 4 * (1999 - 10 + 1)  # a place for each number from the smallest to the largest id
    assert bigger.snapshot.nbytes - catalog.snapshot.nbytes == 1000 * (6 * 8 + 1 + 2 * 8 + 2 * 8) + table
    assert bigger.nbytes > bigger.snapshot.nbytes


def test_nbytes_includes_histories(empty):
    base = replace(base_of(), histories=Histories(50))

    catalog = empty.refreshed(empty.posts, activity(base, recent=[(1, post) for post in range(100)]))

    kept = catalog.snapshot.histories.nbytes
    assert kept - Histories(50).nbytes == 16 + 50 * 9
    without = empty.refreshed(empty.posts, activity(base_of(), recent=[(1, post) for post in range(100)]))
    assert catalog.snapshot.nbytes - without.snapshot.nbytes == 16 + 50 * 9


def test_a_history_is_that_of_the_base_extended_and_recent(empty):
    base = replace(
        base_of(), histories=Histories(3, HistoryIndex.of(interactions((7, 1), (7, 2), (8, 1)), 3))
    )
    later = base.extended(MOMENT + timedelta(minutes=20), interactions((7, 3), (8, 1)))

    catalog = empty.refreshed(empty.posts, activity(later, recent=[(7, 4), (8, 5)]))

    assert catalog.snapshot.history_of(7).post_ids.tolist() == [2, 3, 4]
    batch = catalog.snapshot.histories_of_each(ids(8, 9, 7))
    assert [history.post_ids.tolist() for history in batch] == [[1, 5], [], [2, 3, 4]]


def test_a_base_is_extended_by_later_interactions(empty):
    base = base_of(counts=[(1, 5), (2, 1)], seen=[(7, 1)])
    later = MOMENT + timedelta(minutes=20)

    once = base.extended(later, interactions((7, 2), (8, 1), (8, 1)))
    twice = once.extended(later + timedelta(minutes=20), interactions((7, 3)))

    assert once.until == later
    assert twice.counts.find(ids(1, 2, 3)).tolist() == [7, 2, 1]
    catalog = empty.refreshed(with_posts(empty.posts, 1, 2, 3), activity(twice, recent=[(7, 4)]))
    assert catalog.snapshot.interactions.tolist() == [7, 2, 1]
    assert catalog.snapshot.seen_posts(7).tolist() == [1, 2, 3, 4]
    assert catalog.snapshot.seen_posts(8).tolist() == [1]
    assert base.counts.find(ids(1)).tolist() == [5]
