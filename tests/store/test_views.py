import pytest

from animora_server.errors import StoreError
from animora_server.store.views import COLUMNS, check_views


async def test_our_own_views_are_as_they_must_be(database):
    types = await check_views(database)

    assert (types.image, types.caption) == ("_float4", "_float4")


@pytest.mark.parametrize("view", COLUMNS)
async def test_a_missing_view_is_named(database, view):
    await database.execute(f"drop view animora.{view}")

    with pytest.raises(StoreError, match=rf"animora\.{view}.*deploy/sql"):
        await check_views(database)


async def test_a_missing_column_is_named(database):
    await database.execute("alter view animora.posts rename updated_at to changed_at")

    with pytest.raises(StoreError, match=r"animora\.posts has no column updated_at"):
        await check_views(database)


async def test_an_empty_database_is_told_what_to_do(database):
    await database.execute("drop schema animora cascade")

    with pytest.raises(StoreError, match="apply deploy/sql"):
        await check_views(database)


async def test_a_role_that_may_not_read_is_told_what_to_grant(database):
    await database.execute("revoke select on animora.blocks from animora_reader")
    await database.execute("set role animora_reader")

    with pytest.raises(StoreError, match=r"may not read animora\.blocks.*030_reader\.sql"):
        await check_views(database)


async def test_the_reader_role_may_read_everything(database):
    await database.execute("set role animora_reader")

    await check_views(database)
