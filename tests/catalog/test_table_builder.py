from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from animora_server.catalog import (
    NEVER,
    CatalogPosts,
    EmbeddingRecords,
    PostRecords,
    PostTableBuilder,
    Widths,
)
from tests.support.embeddings import column

NO_IDS = np.empty(0, np.int64)


class Post(NamedTuple):
    author: int = 1
    image: tuple[float, ...] | None = (1.0, 2.0)
    caption: tuple[float, ...] | None = (3.0,)
    updated_at: int = NEVER
    deleted: bool = False
    created_at: float = 1000.0


def records(posts):
    return PostRecords(
        np.array(list(posts), np.int64),
        np.array([post.author for post in posts.values()], np.int64),
        np.array([post.created_at for post in posts.values()], np.float64),
        np.array([post.updated_at for post in posts.values()], np.int64),
        np.array([post.deleted for post in posts.values()], np.bool_),
    ).distinct()


def embeddings(posts):
    return EmbeddingRecords(
        np.array(list(posts), np.int64),
        column(post.image for post in posts.values()),
        column(post.caption for post in posts.values()),
    )


def draft_of(table, posts):
    found = records(posts)
    return PostTableBuilder(table, found, table.outdated(found))


def refreshed(table, posts, removed=NO_IDS):
    """The table after a refresh that found some posts."""
    builder = draft_of(table, posts)
    builder.add(embeddings(posts))
    return builder.finish(np.array(removed, np.int64), 50.0)


def reconciled(table, posts):
    """The table after a refresh that found all posts."""
    return refreshed(table, posts, table.missing(records(posts)))


def content(table):
    """The content of a table, independent of rows."""
    found = {}
    for post_id, row in zip(table.index.ids.tolist(), table.index.values.tolist(), strict=True):
        image, caption = table.embeddings.read(row, row + 1)
        found[post_id] = (
            table.author_ids[row], table.created_at[row], table.updated_at[row], table.deleted[row],
            image.any() and tuple(image[0].tolist()), caption.any() and tuple(caption[0].tolist()),
            table.fingerprints[row],
        )  # fmt: skip
    return found


@pytest.fixture
def table(tmp_path):
    return refreshed(CatalogPosts.empty(tmp_path), {20: Post(), 10: Post(author=2, image=None, caption=None)})


def test_the_first_load_begins_an_epoch(table):
    assert table.epoch == 1
    assert len(table) == 2
    assert table.index.find(np.array([10, 20, 30])).tolist()[2] == -1


def test_the_table_stays_the_same_without_changes(table):
    assert refreshed(table, {20: Post()}) is table


def test_a_load_without_posts_begins_an_epoch():
    assert reconciled(CatalogPosts.empty(None), {}).epoch == 1


def test_new_posts_get_rows_at_the_end(table):
    after = refreshed(table, {5: Post()})

    assert after.index.find(np.array([5])) == 2
    assert after.epoch == table.epoch
    assert after.embeddings is table.embeddings


def test_edited_embeddings_get_a_new_row_and_leave_a_tombstone(table):
    old_row = int(table.index.find(np.array([20]))[0])
    before = table.embeddings.read(old_row, old_row + 1)

    after = refreshed(table, {20: Post(image=(7.0, 8.0), updated_at=1)})

    assert after.index.find(np.array([20])) == 2
    assert after.deleted[old_row]
    assert after.embeddings.read(2, 3)[0].tolist() == [[7, 8]]
    assert after.embeddings.read(old_row, old_row + 1)[0].tolist() == before[0].tolist()


def test_a_post_with_another_author_gets_a_new_row(table):
    after = refreshed(table, {20: Post(author=9)})

    assert after.author_ids[after.index.find(np.array([20]))] == 9
    assert len(after) == 3


def test_an_edit_of_neither_author_nor_times_nor_embeddings_keeps_the_row(table):
    after = refreshed(table, {20: Post(updated_at=1)})

    assert len(after) == 2
    assert not after.outdated(records({20: Post(updated_at=1)}))[0]


def test_a_post_with_another_time_of_creation_gets_a_new_row(table):
    found = {20: Post(created_at=2000.0)}
    assert table.outdated(records(found)).tolist() == [True]

    after = refreshed(table, found)

    row = after.index.find(np.array([20]))
    assert (row, after.created_at[row]) == (2, 2000)
    assert not after.outdated(records(found))[0]


def test_a_soft_deleted_post_is_found_and_gets_a_new_row_when_it_is_restored(table):
    gone = refreshed(table, {20: Post(deleted=True)})
    back = refreshed(gone, {20: Post()})

    row = table.index.find(np.array([20]))
    assert (gone.index.find(np.array([20])), gone.deleted[row]) == (row, True)
    assert (back.index.find(np.array([20])), back.deleted.tolist()) == (2, [False, True, False])
    assert not table.deleted[row]


def test_a_post_that_left_the_view_is_unknown(table):
    after = reconciled(table, {10: Post(author=2, image=None, caption=None)})

    assert after.index.find(np.array([20])) == -1
    assert after.deleted[table.index.find(np.array([20]))]


def test_a_post_that_left_and_came_back_gets_a_new_row(table):
    after = refreshed(refreshed(table, {}, [20]), {20: Post()})

    assert after.index.find(np.array([20])) == 2


def test_a_found_post_is_not_removed(table):
    after = refreshed(table, {20: Post(created_at=7.0, updated_at=1)}, [20])

    assert content(after) == content(table) | {20: content(after)[20]}
    assert after.created_at[after.index.find(np.array([20]))] == 7


def test_an_edit_of_an_unknown_post_is_an_error(table):
    found = records({99: Post(created_at=7.0)})

    with pytest.raises(LookupError, match="1 of 1 ids"):
        PostTableBuilder(table, found, np.array([False])).finish(np.array([20]), 50.0)


def test_the_first_width_of_a_column_begins_an_epoch(tmp_path):
    narrow = refreshed(CatalogPosts.empty(tmp_path), {1: Post(image=None)})

    wide = refreshed(narrow, {2: Post(image=(4.0, 5.0))})

    assert (narrow.embeddings.image_width, wide.embeddings.image_width) == (0, 2)
    assert wide.epoch == narrow.epoch + 1
    assert wide.embeddings.read(0, 2)[0].tolist() == [[0, 0], [4, 5]]
    assert wide.embeddings.read(0, 2)[1].tolist() == [[3], [3]]


def test_an_unusable_embedding_does_not_set_the_width(tmp_path):
    table = refreshed(CatalogPosts.empty(tmp_path), {1: Post(image=()), 2: Post(image=(4.0, 5.0))})

    assert table.embeddings.read(0, 2)[0].tolist() == [[0, 0], [4, 5]]


@pytest.mark.parametrize("image", [(1.0, 2.0, 3.0), (), (1.0, np.nan), (1.0, np.inf), (1.0, 1e6)])
def test_an_unusable_embedding_counts_as_absent(table, image):
    builder = draft_of(table, {30: Post(image=image)})
    builder.add(embeddings({30: Post(image=image)}))

    after = builder.finish(NO_IDS, 50.0)

    assert after.unusable() == Widths(1, 0)
    assert after.embeddings.read(2, 3)[0].tolist() == [[0, 0]]
    assert after.embeddings.read(2, 3)[1].tolist() == [[3]]


def test_posts_whose_embeddings_did_not_arrive_stay_outdated(table):
    posts = {20: Post(updated_at=1, deleted=True), 30: Post()}

    after = draft_of(table, posts).finish(NO_IDS, 50.0)

    assert after.outdated(records(posts)).tolist() == [True, True]


def test_embeddings_that_arrive_twice_count_once(table):
    builder = draft_of(table, {30: Post()})
    builder.add(embeddings({30: Post()}))
    builder.add(embeddings({30: Post(image=(9.0, 9.0)), 40: Post()}))

    assert len(builder.finish(NO_IDS, 50.0)) == 3


def test_a_discarded_builder_changes_nothing(table):
    draft_of(table, {30: Post()}).add(embeddings({30: Post(image=(9.0, 9.0))}))

    after = refreshed(table, {40: Post(image=(6.0, 6.0))})

    assert after.post_ids.tolist() == [*table.post_ids.tolist(), 40]
    assert after.embeddings.read(2, 3)[0].tolist() == [[6, 6]]


def test_young_posts_without_embeddings_are_listed_until_they_have_them(tmp_path):
    posts = {
        1: Post(image=None),
        2: Post(caption=None),
        3: Post(image=None, created_at=10.0),
        4: Post(image=None, deleted=True),
        5: Post(),
    }
    table = refreshed(CatalogPosts.empty(tmp_path), posts)
    assert [ids.tolist() for ids in table.without_embeddings(since=500.0)] == [[1], [2]]

    builder = PostTableBuilder(table, table.records(np.array([1])), np.array([True]))
    builder.add(embeddings({1: Post()}))

    assert [ids.tolist() for ids in builder.finish(NO_IDS, 50.0).without_embeddings(since=500.0)] == [[], [2]]


def test_many_tombstones_are_compacted_in_a_new_epoch(tmp_path):
    posts = {one: Post(author=one, image=(one, 1.0)) for one in range(4000)}
    table = refreshed(CatalogPosts.empty(tmp_path), posts)
    kept = {one: post for one, post in posts.items() if one >= 1024}
    few = reconciled(table, kept)
    assert (few.epoch, len(few)) == (1, 4000)

    many = reconciled(few, {one: post for one, post in kept.items() if one % 3})

    assert many.epoch == 2
    assert len(many) == len(many.index)
    assert content(many) == {one: found for one, found in content(few).items() if one % 3}


post_values = st.builds(
    Post,
    author=st.integers(1, 3),
    image=st.none() | st.tuples(st.sampled_from([0.0, 1.0, 2.0]), st.just(5.0)),
    caption=st.none() | st.tuples(st.sampled_from([0.0, 1.0])),
    updated_at=st.just(NEVER),
    deleted=st.booleans(),
    created_at=st.sampled_from([1.0, 2.0]),
)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.dictionaries(st.integers(0, 8), post_values), max_size=5))
def test_after_a_reconcile_a_table_equals_a_fresh_load(states):
    table = CatalogPosts.empty(None)
    posts: dict[int, Post] = {}
    for moment, state in enumerate(states):
        # As the database does, a post that changed has another updated_at.
        posts = {
            one: posts[one]
            if one in posts and posts[one]._replace(updated_at=NEVER) == post
            else post._replace(updated_at=moment)
            for one, post in state.items()
        }
        before, table = table, reconciled(table, posts)
        assert content(table) == content(reconciled(CatalogPosts.empty(None), posts))
        if before.epoch == table.epoch:
            assert table.fingerprints[: len(before)].tolist() == before.fingerprints.tolist()
            assert table.author_ids[: len(before)].tolist() == before.author_ids.tolist()
