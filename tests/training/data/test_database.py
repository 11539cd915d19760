import pytest

from animora_training.data.database import Database, connect
from animora_training.data.reading import read_dataset
from animora_training.errors import DatabaseError


def ignore(*progress):
    pass


async def test_the_reading_role_may_read_and_nothing_else(postgres_url, tmp_path):
    async with connect(Database(postgres_url)) as connection:
        await connection.execute("insert into animora_app.users (id) select generate_series(1, 3)")
        await connection.execute("set role animora_reader")
        data = await read_dataset(connection, tmp_path, ignore)
    assert data.user_ids.tolist() == [1, 2, 3]
    with pytest.raises(DatabaseError, match=r"deploy/sql/030_reader\.sql"):
        async with connect(Database(postgres_url)) as connection:
            await connection.execute("set role animora_reader; select from animora_app.users")


async def test_a_missing_view_is_reported_with_the_sql_file_that_creates_it(empty_postgres_url, tmp_path):
    with pytest.raises(DatabaseError, match=r"apply deploy/sql/010_tables\.sql"):
        async with connect(Database(empty_postgres_url)) as connection:
            await read_dataset(connection, tmp_path, ignore)


async def test_an_unreachable_database_is_named_by_its_option(tmp_path):
    for url in (
        f"postgresql://animora@/animora?host={tmp_path}",
        "http://localhost",
        "postgresql://localhost:x/",
    ):
        with pytest.raises(DatabaseError, match="--database-url: cannot connect"):
            async with connect(Database(url)):
                pass


async def test_options_that_asyncpg_lacks_are_accepted_and_reported(postgres_url, caplog):
    async with connect(Database(f"{postgres_url}&keepalives=1&channel_binding=require")) as connection:
        assert await connection.fetchval("select 1") == 1

    assert "keepalives, channel_binding" in caplog.text


async def test_an_unknown_option_is_named(postgres_url):
    with pytest.raises(DatabaseError, match=r"--database-url: .*unknown option 'conect_timeout'"):
        async with connect(Database(f"{postgres_url}&conect_timeout=1")):
            pass
