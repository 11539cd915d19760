"""Passwords of PostgreSQL and Redis that change while the server answers calls."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest
import redis.asyncio
from redis.asyncio import Redis

from animora_demo.embedded import EmbeddedPostgres, EmbeddedRedis, apply_schema
from tests.integration.serving import serving, settings_for
from tests.integration.test_faults import NETWORKS
from tests.support.feed import AUTHORS, COLD_USER, Feed, fill
from tests.support.ledger import Ledger
from tests.support.pages import metric
from tests.support.passwords import require_password
from tests.support.until import until

READER = "animora_reader"
SESSIONS = f"select count(*) from pg_stat_activity where usename = '{READER}'"
BLOCK = f"insert into animora_app.block_relations values ({COLD_USER}, {AUTHORS[0]})"


@pytest.fixture
async def postgres(embedded_postgres: Callable[[], Awaitable[EmbeddedPostgres]]) -> EmbeddedPostgres:
    """A PostgreSQL where the reader needs a password."""
    postgres = await embedded_postgres()
    await apply_schema(postgres.url)
    await require_password(postgres, READER, "first-secret")
    return postgres


@pytest.fixture
async def cache(embedded_redis: Callable[[], Awaitable[EmbeddedRedis]]) -> EmbeddedRedis:
    """A Redis where the user "feed" needs a password, and no other user may connect without one."""
    server = await embedded_redis()
    async with redis.asyncio.from_url(server.url) as client:
        await set_password(client, "first-secret")
        await client.config_set("requirepass", "of-the-administrator")
    return server


async def set_password(client: Redis, password: str) -> None:
    await client.acl_setuser(
        "feed", enabled=True, reset_passwords=True, passwords=[f"+{password}"], commands=["+@all"], keys=["*"]
    )


def as_reader(postgres: EmbeddedPostgres) -> str:
    return postgres.url.replace("postgresql://animora@", f"postgresql://{READER}@")


def as_user(cache: EmbeddedRedis) -> str:
    return cache.url.replace("unix://", "unix://feed@")


@pytest.mark.parametrize("file_first", [True, False], ids=["the file first", "the servers first"])
async def test_renewed_passwords_are_used_by_new_connections_and_no_call_is_lost(
    postgres: EmbeddedPostgres, cache: EmbeddedRedis, store, tmp_path: Path, capfd, file_first: bool
):
    feed: Feed = await fill(postgres.url)
    file = tmp_path / "password"
    file.write_text("first-secret\n")
    settings = settings_for(
        as_reader(postgres),
        as_user(cache),
        tmp_path / "models",
        database={"password_file": file},
        cache={"password_file": file},
    )
    database = await asyncpg.connect(postgres.url)
    ledger = Ledger(feed, NETWORKS)
    async with (
        redis.asyncio.from_url(cache.url, password="of-the-administrator") as client,
        serving(settings) as (application, stub),
        ledger.load(stub),
    ):

        async def uses_both() -> bool:
            listens = await metric(application, "animora_catalog_listening")
            return bool(listens and not await metric(application, "animora_cache_breaker_open"))

        async def renew_file() -> None:
            (tmp_path / "new").write_text("second-secret\n")
            (tmp_path / "new").rename(file)

        async def renew_servers() -> None:
            await database.execute(f"alter role {READER} password 'second-secret'")
            await set_password(client, "second-secret")

        async def end_connections() -> None:
            await database.execute(
                f"select pg_terminate_backend(pid) from pg_stat_activity where usename = '{READER}'"
            )
            await client.client_kill_filter(user="feed")

        async def is_cut_off() -> bool:
            return not (await uses_both() or await database.fetchval(SESSIONS))

        await until(uses_both)
        first, second = (renew_file, renew_servers) if file_first else (renew_servers, renew_file)
        await first()
        await end_connections()
        await until(is_cut_off)
        await ledger.more(50)
        await second()
        await until(uses_both)
        notified = await metric(application, "animora_catalog_notifications_total")
        await database.execute(BLOCK)

        async def is_notified() -> bool:
            return await metric(application, "animora_catalog_notifications_total") > notified

        await until(is_notified)
        await ledger.more(50)
    await database.close()
    assert ledger.wrong == []
    assert ledger.outcomes == {"OK": ledger.sent}
    assert "secret" not in "".join(capfd.readouterr())
