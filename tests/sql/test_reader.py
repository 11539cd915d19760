import asyncpg
import pytest

from animora_demo.embedded import apply_schema


@pytest.fixture
async def reader(database, postgres_url):
    """A connection of the role that the server and the trainer use."""
    connection = await asyncpg.connect(postgres_url, user="animora_reader")
    yield connection
    await connection.close()


@pytest.mark.parametrize("view", ["users", "posts", "interactions", "blocks"])
async def test_the_reader_reads_the_views(reader, view):
    assert await reader.fetch(f"select * from animora.{view}") == []


@pytest.mark.parametrize(
    "statement",
    [
        "select * from animora_app.users",
        "select body from animora_app.comments",
        "insert into animora.users values (1)",
        "delete from animora.blocks",
        "create table animora.mine (id int)",
        "create table public.mine (id int)",
    ],
)
async def test_the_reader_has_no_other_rights(reader, statement):
    await reader.execute("set default_transaction_read_only = off")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await reader.execute(statement)


async def test_the_readers_transactions_are_read_only(reader):
    assert await reader.fetchval("show transaction_read_only") == "on"


async def test_the_role_is_granted_in_a_second_database_of_the_cluster(reader, empty_postgres_url):
    await apply_schema(empty_postgres_url)
    connection = await asyncpg.connect(empty_postgres_url, user="animora_reader")
    assert await connection.fetchval("select count(*) from animora.users") == 0
    await connection.close()
