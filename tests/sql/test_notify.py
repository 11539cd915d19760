"""Notifications of blocks and deletions."""

import asyncio

import asyncpg
import pytest

from tests.support.until import HANG_TIMEOUT


class Heard:
    """The payloads that a connection receives, in order."""

    def __init__(self, connection, sender):
        self._connection = connection
        self._sender = sender
        self._payloads: asyncio.Queue[str] = asyncio.Queue()

    async def start(self):
        await self._connection.add_listener("animora", lambda *heard: self._payloads.put_nowait(heard[-1]))

    async def payloads(self):
        """The payloads of all commits so far."""
        await self._sender.execute("notify animora, 'now'")
        heard = []
        async with asyncio.timeout(HANG_TIMEOUT):
            while (payload := await self._payloads.get()) != "now":
                heard.append(payload)
        return heard


@pytest.fixture
async def heard(database, postgres_url):
    """The reader's notifications of a database with users 1 to 4 and posts 10, 11 and 12 by user 1."""
    await database.execute("insert into animora_app.users select generate_series(1, 4)")
    await database.execute("insert into animora_app.posts (id, author_id) values (10, 1), (11, 1), (12, 1)")
    connection = await asyncpg.connect(postgres_url, user="animora_reader")
    heard = Heard(connection, database)
    await heard.start()
    yield heard
    await connection.close()


async def test_a_block_and_its_removal_are_notified(database, heard):
    await database.execute("insert into animora_app.block_relations values (1, 2), (3, 1)")
    assert await heard.payloads() == ["block 1 2", "block 3 1"]
    await database.execute("delete from animora_app.block_relations where blocker_id = 1")
    assert await heard.payloads() == ["unblock 1 2"]


async def test_a_changed_block_is_notified_as_removal_and_block(database, heard):
    await database.execute("insert into animora_app.block_relations values (1, 2)")
    await heard.payloads()
    await database.execute("update animora_app.block_relations set blocked_id = 3")
    assert sorted(await heard.payloads()) == ["block 1 3", "unblock 1 2"]


async def test_notifications_are_sent_on_commit_only(database, heard, postgres_url):
    other = await asyncpg.connect(postgres_url)
    transaction = other.transaction()
    await transaction.start()
    await other.execute("insert into animora_app.block_relations values (1, 2)")
    await other.execute("delete from animora_app.posts where id = 10")
    assert await heard.payloads() == []
    await transaction.rollback()
    assert await heard.payloads() == []
    await other.close()


@pytest.mark.parametrize(
    ("statements", "last"),
    [
        ("{block} {unblock}", "unblock 1 2"),
        ("{block} {unblock} {block}", "block 1 2"),
        ("{block} {unblock} {block} {unblock}", "unblock 1 2"),
    ],
)
async def test_the_final_state_of_a_transaction_is_notified_last(database, heard, statements, last):
    block = "insert into animora_app.block_relations values (1, 2);"
    unblock = "delete from animora_app.block_relations;"
    async with database.transaction():
        await database.execute(statements.format(block=block, unblock=unblock))
    assert (await heard.payloads())[-1] == last


async def test_a_block_restored_within_its_transaction_is_never_notified_as_removed(database, heard):
    await database.execute("insert into animora_app.block_relations values (1, 2)")
    await heard.payloads()
    async with database.transaction():
        await database.execute("delete from animora_app.block_relations")
        await database.execute("insert into animora_app.block_relations values (1, 2)")
    assert await heard.payloads() == ["block 1 2"]


async def test_a_soft_deletion_is_notified_once(database, heard):
    await database.execute("update animora_app.posts set deleted_at = now() where id = 10")
    await database.execute("update animora_app.posts set deleted_at = now() where id = 10")
    await database.execute("delete from animora_app.posts where id = 10")
    assert await heard.payloads() == ["delete 10"]


@pytest.mark.parametrize("change", ["caption = 'another'", "image_embedding = '{1}'", "deleted_at = null"])
async def test_other_changes_of_a_post_are_not_notified(database, heard, change):
    await database.execute(f"update animora_app.posts set {change}")
    assert await heard.payloads() == []


async def test_deleting_a_user_notifies_the_deletion_of_all_their_posts_at_once(database, heard):
    await database.execute("delete from animora_app.users where id = 1")
    assert [sorted(payload.split()) for payload in await heard.payloads()] == [["10", "11", "12", "delete"]]


async def test_any_number_of_deletions_fits_into_payloads(database, heard):
    lowest = -(2**63)
    await database.execute(
        "insert into animora_app.posts (id, author_id)"
        f" select {lowest} + n, 2 from generate_series(0, 999) as n"
    )
    await database.execute("delete from animora_app.posts where author_id = 2")
    notified = [int(word) for payload in await heard.payloads() for word in payload.split()[1:]]
    assert sorted(notified) == list(range(lowest, lowest + 1000))


@pytest.mark.parametrize(
    "change",
    ["truncate animora_app.block_relations", "alter table animora_app.block_relations add note text"],
)
async def test_a_transaction_that_removed_blocks_can_alter_their_table_after_it_notified(
    database, heard, change
):
    await database.execute("insert into animora_app.block_relations (blocker_id, blocked_id) values (1, 2)")
    delete = "delete from animora_app.block_relations"
    with pytest.raises(asyncpg.ObjectInUseError):
        async with database.transaction():
            await database.execute(f"{delete}; {change}")
    async with database.transaction():
        await database.execute(f"{delete}; set constraints all immediate; {change}")
    assert await heard.payloads() == ["block 1 2", "unblock 1 2"]


async def test_a_role_with_rights_on_blocks_alone_can_write_them(database, heard):
    await database.execute("create role blocking")
    try:
        await database.execute("grant usage on schema animora_app to blocking")
        await database.execute("grant insert, delete on animora_app.block_relations to blocking")
        await database.execute("set role blocking")
        await database.execute("insert into animora_app.block_relations values (1, 2)")
        await database.execute("delete from animora_app.block_relations")
        assert await heard.payloads() == ["block 1 2", "unblock 1 2"]
    finally:
        await database.execute("reset role")
        await database.execute("drop owned by blocking")
        await database.execute("drop role blocking")
