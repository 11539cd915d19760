import numpy as np
import pytest

from animora_training.data.database import Database, connect
from animora_training.data.folder import describe, open_dataset
from animora_training.data.reading import read_dataset
from animora_training.errors import CannotWrite, DatabaseError, InvalidInput
from tests.support.datasets import triples

PEOPLE = "insert into animora_app.users (id) select generate_series(1, 3)"
POST = (
    "insert into animora_app.posts (id, author_id, created_at, {column}) values ($1, 1, to_timestamp(1), $2)"
)
INTERACTIONS = (
    "create or replace view animora.interactions as select * from (values {rows})"
    " as rows (user_id, post_id, kind, created_at)"
)


def ignore(*progress):
    pass


async def add_post(connection, post_id, embedding, column="image_embedding"):
    await connection.execute(POST.format(column=column), post_id, embedding)


@pytest.fixture
async def connection(postgres_url):
    async with connect(Database(postgres_url)) as connection:
        await connection.execute(PEOPLE)
        yield connection


@pytest.fixture
def read(connection, tmp_path):
    """Reads the data set after some statements."""

    async def after(*statements):
        for statement in statements:
            await connection.execute(statement)
        return await read_dataset(connection, tmp_path, ignore)

    return after


async def test_an_empty_database_is_an_empty_data_set(read, tmp_path):
    data = await read("delete from animora_app.users")
    assert len(data.user_ids) == len(data.posts.ids) == len(data.events) == len(data.pairs) == 0
    assert data.posts.image.shape == (0, 0)
    assert data.blocks.shape == (0, 2)
    assert describe(tmp_path).users == 0


async def test_embeddings_are_rounded_as_the_server_keeps_them_and_null_or_empty_ones_are_zeros(
    connection, read
):
    await add_post(connection, 3, [0.1, 2.0])
    await add_post(connection, 1, None)
    await add_post(connection, 2, [])
    posts = (await read()).posts
    assert posts.ids.tolist() == [1, 2, 3]
    assert posts.image.tolist() == [[0.0, 0.0], [0.0, 0.0], [float(np.float16(0.1)), 2.0]]
    assert posts.image.dtype == np.float16
    assert posts.caption.shape == (3, 0)


async def test_embeddings_reach_their_posts_even_late_and_in_several_chunks(read):
    data = await read(
        "insert into animora_app.posts (id, author_id, created_at, image_embedding, caption_embedding)"
        " select i, 1, to_timestamp(i), case when i > 6000 and i % 3 > 0 then"
        " array_fill(i::real, array[128]) end, case when i % 2 = 0 then array[i, -i, 0.5]::real[] end"
        " from generate_series(1, 16000) i"
    )
    ids = data.posts.ids
    assert ids.tolist() == list(range(1, 16001))
    image = np.where((ids > 6000) & (ids % 3 > 0), ids, 0)[:, None].astype(np.float16)
    np.testing.assert_array_equal(data.posts.image, np.broadcast_to(image, (16000, 128)))
    caption = np.stack((ids, -ids, np.full(16000, 0.5)), axis=1) * (ids % 2 == 0)[:, None]
    np.testing.assert_array_equal(data.posts.caption, caption.astype(np.float16))
    assert (data.posts.created == ids).all()
    assert not data.posts.deleted.any()


async def test_interactions_in_several_chunks_are_complete(read):
    data = await read(
        "insert into animora_app.users (id) select generate_series(4, 200)",
        "insert into animora_app.posts (id, author_id) select i * 10, 1 from generate_series(1, 700) i",
        "create or replace view animora.interactions as select 1 + i % 200 as user_id,"
        " 10 + 10 * (i * 7919 % 700) as post_id, 'like'::text as kind,"
        " to_timestamp(i * 31 % 1000) as created_at from generate_series(1::bigint, 250000) i",
    )
    number = np.arange(1, 250_001)
    users, posts, times = number % 200, number * 7919 % 700, number * 31 % 1000
    order = np.lexsort((posts, times, users))
    np.testing.assert_array_equal(data.events.users, users[order])
    np.testing.assert_array_equal(data.events.posts, posts[order])
    np.testing.assert_array_equal(data.events.times, times[order])
    keys, latest = np.unique(data.pair_keys(users, posts), return_inverse=True)
    last = np.zeros(len(keys))
    np.maximum.at(last, latest, times)
    found = np.argsort(data.pair_keys(data.pairs.users, data.pairs.posts))
    np.testing.assert_array_equal(data.pair_keys(data.pairs.users, data.pairs.posts)[found], keys)
    np.testing.assert_array_equal(data.pairs.times[found], last)


@pytest.mark.parametrize(
    "embedding",
    [[1.0], [1.0, float("nan")], [1.0, 1e6], [1.0, None], [[1.0], [2.0]], [[1.0, 1.0]]],
    ids=["narrow", "nan", "large", "null", "two dimensions", "nested"],
)
async def test_an_unusable_embedding_is_absent(connection, read, tmp_path, embedding, caplog):
    for post_id in (5, 6):
        await add_post(connection, post_id, [1.0, 1.0])
    await add_post(connection, 7, embedding)
    assert (await read()).posts.image.tolist() == [[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]]
    assert describe(tmp_path).left_out["posts.image"] == 1
    assert "1 embeddings of animora.posts count as absent: image_embedding" in caplog.text


async def test_embeddings_have_the_most_frequent_width(read, tmp_path):
    data = await read(
        "insert into animora_app.posts (id, author_id, created_at, image_embedding)"
        " select i, 1, to_timestamp(i), array_fill(i::real, array[case when i > 6000 then 128 else 256 end])"
        " from generate_series(1, 13000) i"
    )
    ids = data.posts.ids
    assert ids.tolist() == list(range(1, 13001))
    expected = np.where(ids > 6000, ids, 0)[:, None].astype(np.float16)
    np.testing.assert_array_equal(data.posts.image, np.broadcast_to(expected, (13000, 128)))
    assert data.posts.caption.shape == (13000, 0)
    assert (data.posts.created == ids).all()
    assert describe(tmp_path).left_out["posts.image"] == 6000


async def test_interactions_with_users_or_posts_outside_the_views_are_dropped(connection, read):
    await add_post(connection, 5, None)
    data = await read(
        INTERACTIONS.format(
            rows="(2::bigint, 5::bigint, 'like'::text, to_timestamp(20.5)), (1, 5, 'like', to_timestamp(10)),"
            " (9, 5, 'like', to_timestamp(1)), (1, 9, 'like', to_timestamp(1))"
        )
    )
    assert triples(data.events) == [(0, 0, 10.0), (1, 0, 20.5)]


async def test_interactions_are_sorted_by_user_time_and_post_and_pairs_have_the_latest_time(read):
    data = await read(
        "insert into animora_app.posts (id, author_id) select i * 10, 1 from generate_series(1, 50) i",
        # Every user touches every post up to three times; likes and comments tie within a user.
        "create or replace view animora.interactions as select u::bigint as user_id,"
        " (p * 10)::bigint as post_id, 'like'::text as kind,"
        " to_timestamp((u * 31 + p * 17 + k * 7) % 40) as created_at"
        " from generate_series(1, 3) u, generate_series(1, 50) p, generate_series(1, 3) k",
    )
    events = triples(data.events)
    assert len(events) == 450
    assert events == sorted(events, key=lambda event: (event[0], event[2], event[1]))
    latest: dict[tuple[int, int], float] = {}
    for user, post, time in events:
        latest[user, post] = max(time, latest.get((user, post), 0.0))
    pairs = triples(data.pairs)
    assert pairs == sorted(pairs, key=lambda pair: (pair[0], pair[2], pair[1]))
    assert sorted(pairs) == sorted((*pair, time) for pair, time in latest.items())


async def test_a_block_is_read_in_both_directions_once(read):
    data = await read("insert into animora_app.block_relations values (3, 1), (1, 3), (2, 1)")
    assert data.blocks.tolist() == [[1, 2], [1, 3], [2, 1], [3, 1]]


POST_VIEW = (
    "create or replace view animora.posts as select 1::bigint as id, {author}::bigint as author_id,"
    " {created}::timestamptz as created_at, null::timestamptz as updated_at, null::timestamptz as deleted_at,"
    " null::real[] as image_embedding, null::real[] as caption_embedding from generate_series(1, {rows})"
)
BLOCKS = (
    "create or replace view animora.blocks as select * from (values {rows})"
    " as rows (blocker_id, blocked_id, created_at)"
)


@pytest.mark.parametrize(
    ("view", "left_out"),
    [
        ("create or replace view animora.users as select null::bigint as id", "users.missing"),
        (POST_VIEW.format(author="null", created="now()", rows=1), "posts.missing"),
        (POST_VIEW.format(author="1", created="null", rows=1), "posts.missing"),
        (POST_VIEW.format(author="1", created="'-infinity'", rows=1), "posts.missing"),
        (POST_VIEW.format(author="1", created="now()", rows=2), "posts.duplicate"),
        (
            INTERACTIONS.format(rows="(1::bigint, 5::bigint, 'like', null::timestamptz)"),
            "interactions.missing",
        ),
        (INTERACTIONS.format(rows="(1::bigint, null::bigint, 'like', now())"), "interactions.missing"),
        (
            INTERACTIONS.format(rows="(1::bigint, 5::bigint, 'like', timestamptz 'infinity')"),
            "interactions.missing",
        ),
        (INTERACTIONS.format(rows="(1::bigint, 5::bigint, 'share', now())"), "interactions.kind"),
        (INTERACTIONS.format(rows="(1::bigint, 5::bigint, null::text, now())"), "interactions.kind"),
        (BLOCKS.format(rows="(null::bigint, 2::bigint, now())"), "blocks.missing"),
        (BLOCKS.format(rows="(2::bigint, 2::bigint, now())"), "blocks.self"),
    ],
)
async def test_invalid_rows_are_dropped_counted_and_logged(read, tmp_path, view, left_out, caplog):
    data = await read(view)
    assert {name: rows for name, rows in describe(tmp_path).left_out.items() if rows} == {left_out: 1}
    assert f"1 rows of animora.{left_out.partition('.')[0]} are left out" in caplog.text
    assert len(data.user_ids) == (0 if left_out == "users.missing" else 3)
    assert len(data.posts.ids) == (1 if left_out == "posts.duplicate" else 0)
    assert len(data.events) == len(data.blocks) == 0


async def test_row_level_security_that_may_hide_rows_is_logged(read, caplog):
    await read(
        "alter table animora_app.posts enable row level security;"
        "alter view animora.posts set (security_invoker = true);"
        "grant usage on schema animora_app to animora_reader;"
        "grant select on animora_app.posts to animora_reader;"
        "set role animora_reader"
    )

    assert "row-level security of animora_app.posts decides which rows animora.posts shows" in caplog.text
    assert "to the role animora_reader" in caplog.text


async def test_of_posts_with_equal_ids_the_deleted_one_wins_across_chunks(read, tmp_path):
    data = await read(
        "create or replace view animora.posts as select i / 2 as id, i % 2 as author_id,"
        " to_timestamp(i) as created_at, null::timestamptz as updated_at,"
        " case when i % 4 = 1 then now() end as deleted_at,"
        " array_fill((i % 8)::real, array[64]) as image_embedding,"
        " null::real[] as caption_embedding from generate_series(0::bigint, 39999) as i"
    )
    ids = np.arange(20000)
    chosen = 2 * ids + (ids % 2 == 0)  # of the two rows of an id
    assert data.posts.ids.tolist() == ids.tolist()
    assert data.posts.created.tolist() == chosen.tolist()
    assert data.posts.deleted.tolist() == (ids % 2 == 0).tolist()
    assert data.posts.authors.tolist() == (chosen % 2).tolist()
    assert data.posts.image[:, 0].tolist() == (chosen % 8).tolist()
    assert describe(tmp_path).left_out["posts.duplicate"] == 20000


async def test_an_invalid_view_is_refused_and_leaves_no_data_set(connection, read, tmp_path):
    await read()
    with pytest.raises(
        DatabaseError, match=r"animora\.users: id is numeric and must be bigint: write id::bigint"
    ):
        await read("drop view animora.users", "create view animora.users as select 1.5 as id")
    with pytest.raises(InvalidInput, match="holds no data set, or an incomplete one"):
        open_dataset(tmp_path)
    assert await connection.fetchval("select 1") == 1


async def test_a_full_disk_is_reported(connection, tmp_path):
    file = tmp_path / "event_posts.npy"

    def fill(view, rows):
        if not file.is_symlink():
            file.symlink_to("/dev/full")

    with pytest.raises(CannotWrite, match=r"event_posts.npy: cannot be written: No space left on device"):
        await read_dataset(connection, tmp_path, fill)
    assert await connection.fetchval("select 1") == 1


async def test_an_open_data_set_stays_unchanged_while_its_folder_is_rewritten(connection, read):
    first = await read()
    second = await read("delete from animora_app.users where id = 2")
    assert (first.user_ids.tolist(), second.user_ids.tolist()) == ([1, 2, 3], [1, 3])


async def test_an_unwritable_folder_is_reported(connection, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CannotWrite, match=r"file: cannot be written"):
        await read_dataset(connection, tmp_path / "file", ignore)
