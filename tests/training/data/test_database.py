import numpy as np
import pytest

from animora_training.data.database import connect, read_dataset
from animora_training.errors import DatabaseError
from tests.training.worlds import triples

PEOPLE = "insert into animora_app.users (id) select generate_series(1, 3)"
POST = (
    "insert into animora_app.posts (id, author_id, created_at, {column}) values ($1, 1, to_timestamp(1), $2)"
)


def ignore(*progress):
    pass


async def add_post(connection, post_id, embedding, column="image_embedding"):
    await connection.execute(POST.format(column=column), post_id, embedding)


async def read(url, *statements):
    """The data set after some statements."""
    async with connect(url) as connection:
        for statement in statements:
            await connection.execute(statement)
        return await read_dataset(connection, ignore)


async def test_an_empty_database_is_an_empty_data_set(postgres_url):
    data = await read(postgres_url)
    assert len(data.user_ids) == len(data.posts.ids) == len(data.events) == len(data.blocks) == 0
    assert data.posts.image.shape == (0, 0)


async def test_embeddings_are_rounded_as_the_server_keeps_them_and_null_or_empty_ones_are_zeros(postgres_url):
    async with connect(postgres_url) as connection:
        await connection.execute(PEOPLE)
        await add_post(connection, 3, [0.1, 2.0])
        await add_post(connection, 1, None)
        await add_post(connection, 2, [])
        posts = (await read_dataset(connection, ignore)).posts
    assert posts.ids.tolist() == [1, 2, 3]
    assert posts.image.tolist() == [[0.0, 0.0], [0.0, 0.0], [float(np.float16(0.1)), 2.0]]
    assert posts.caption.shape == (3, 0)


@pytest.mark.parametrize(
    ("embedding", "message"),
    [
        ([1.0], "image_embedding of post 7 has 1 numbers, others have 2"),
        ([1.0, float("nan")], "image_embedding of post 7 holds a number that is not finite"),
        ([1.0, 1e6], "beyond 65504"),
        ([1.0, None], "image_embedding of post 7 holds a null"),
        ([[1.0], [2.0]], "image_embedding of post 7 has more than one dimension"),
    ],
)
async def test_a_bad_embedding_is_named_by_its_post(postgres_url, embedding, message):
    async with connect(postgres_url) as connection:
        await connection.execute(PEOPLE)
        await add_post(connection, 5, [1.0, 1.0])
        await add_post(connection, 7, embedding)
    with pytest.raises(DatabaseError, match=message):
        await read(postgres_url)


async def test_interactions_with_what_the_views_do_not_show_are_left_out(postgres_url):
    async with connect(postgres_url) as connection:
        await connection.execute(PEOPLE)
        await add_post(connection, 5, None)
        await connection.execute(
            "create or replace view animora.interactions as select * from (values"
            " (2::bigint, 5::bigint, 'like'::text, to_timestamp(20.5)), (1, 5, 'comment', to_timestamp(10)),"
            " (9, 5, 'like', to_timestamp(1)), (1, 9, 'like', to_timestamp(1)))"
            " as rows (user_id, post_id, kind, created_at)"
        )
        data = await read_dataset(connection, ignore)
    assert triples(data.events) == [(0, 0, 10.0), (1, 0, 20.5)]


POST_VIEW = (
    "create or replace view animora.posts as select 1::bigint as id, {author}::bigint as author_id,"
    " now() as created_at, null::timestamptz as updated_at, null::timestamptz as deleted_at,"
    " null::real[] as image_embedding, null::real[] as caption_embedding from generate_series(1, {rows})"
)


@pytest.mark.parametrize(
    ("view", "message"),
    [
        ("create or replace view animora.users as select null::bigint as id", "animora.users holds a null"),
        (POST_VIEW.format(author="null", rows=1), "animora.posts holds a null"),
        (POST_VIEW.format(author="1", rows=2), "animora.posts shows an id twice"),
    ],
)
async def test_a_view_that_holds_a_null_or_an_id_twice_is_refused(postgres_url, view, message):
    with pytest.raises(DatabaseError, match=message):
        await read(postgres_url, view)


async def test_the_reading_role_is_enough_to_read_and_for_nothing_else(postgres_url):
    data = await read(postgres_url, PEOPLE, "set role animora_reader")
    assert data.user_ids.tolist() == [1, 2, 3]
    with pytest.raises(DatabaseError, match=r"deploy/sql/030_reader\.sql"):
        await read(postgres_url, "set role animora_reader", "select from animora_app.users")


async def test_what_is_missing_is_said_with_the_file_that_makes_it(empty_postgres_url):
    with pytest.raises(DatabaseError, match=r"apply deploy/sql/010_tables\.sql"):
        await read(empty_postgres_url)


async def test_a_server_that_does_not_answer_is_named_by_its_option(tmp_path):
    for url in (
        f"postgresql://animora@/animora?host={tmp_path}",
        "http://localhost",
        "postgresql://localhost:x/",
    ):
        with pytest.raises(DatabaseError, match="--database-url: cannot connect"):
            async with connect(url):
                pass
