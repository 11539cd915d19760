import asyncio

import asyncpg
import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from structlog.testing import capture_logs

from animora_server.catalog import Facts
from animora_server.errors import ConfigurationError
from animora_server.metrics import CatalogMetrics
from animora_server.settings import DatabaseSettings
from animora_server.store import FactListener
from animora_server.store.listener import FIRST_DELAY

PATIENCE = 30  # seconds
LISTENERS = """
from pg_stat_activity
where datname = current_database() and query like '%pg_notify%' and pid <> pg_backend_pid()
"""
KILL_LISTENERS = f"select pg_terminate_backend(pid) {LISTENERS}"
TRIED_AT = f"select max(query_start) {LISTENERS}"


class Hearer:
    """Takes what a listener tells."""

    def __init__(self):
        self.facts = []
        self.begun = 0
        self._news = asyncio.Condition()
        self.registry = CollectorRegistry()
        self.metrics = CatalogMetrics(self.registry)
        self._tasks = set()

    def receive(self, facts):
        self.facts.append(facts)
        self._tell()

    def listening(self):
        self.begun += 1
        self._tell()

    @property
    def joined(self):
        return Facts.joined(self.facts)

    @property
    def is_listening(self):
        return self.registry.get_sample_value("animora_catalog_listening")

    def notifications(self, kind):
        return self.registry.get_sample_value("animora_catalog_notifications_total", {"kind": kind})

    async def until(self, holds):
        async with asyncio.timeout(PATIENCE), self._news:
            await self._news.wait_for(holds)

    def _tell(self):
        async def tell():
            async with self._news:
                self._news.notify_all()

        task = asyncio.ensure_future(tell())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


@pytest.fixture
def hearer():
    return Hearer()


def listener_of(url, hearer, **options):
    settings = DatabaseSettings(url=SecretStr(url), **{"listen_timeout": 5.0, **options})
    return FactListener(settings, hearer.metrics, hearer.receive, hearer.listening)


async def test_facts_are_heard_in_the_order_of_their_commits(database, postgres_url, hearer):
    await database.execute("insert into animora_app.posts (id, author_id) values (1, 1), (2, 1)")
    async with listener_of(postgres_url, hearer):
        for _ in range(20):
            await database.execute("insert into animora_app.block_relations values (1, 2)")
            await database.execute("delete from animora_app.block_relations")
        await database.execute("delete from animora_app.posts")
        await hearer.until(lambda: hearer.joined.deleted)

    assert hearer.joined == Facts({(1, 2): False}, frozenset({1, 2}))
    assert [hearer.notifications(kind) for kind in ("block", "unblock", "delete")] == [20, 20, 1]


async def test_a_role_that_may_only_read_may_listen(database, postgres_url, hearer):
    async with listener_of(postgres_url.replace("animora@", "animora_reader@"), hearer):
        assert hearer.begun == 1
        await database.execute("notify animora, 'block 1 2'")
        await hearer.until(lambda: hearer.facts)


async def test_the_connection_may_lead_elsewhere_than_that_of_the_polls(database, postgres_url, hearer):
    away = "postgresql://animora@/none?host=/nowhere&sslmode=disable"
    async with listener_of(away, hearer, listen_url=SecretStr(postgres_url)):
        assert hearer.begun == 1


async def test_what_is_no_fact_is_counted_and_passed_over(database, postgres_url, hearer):
    async with listener_of(postgres_url, hearer):
        for payload in ("", "block 1", "drop table users", "block 1 2"):
            await database.execute("select pg_notify('animora', $1)", payload)
        await hearer.until(lambda: hearer.facts)

    assert hearer.facts == [Facts({(1, 2): True})]
    assert hearer.notifications("unreadable") == 3


async def test_a_connection_that_is_cut_is_made_again_and_says_so(database, postgres_url, hearer):
    with capture_logs() as logs:
        async with listener_of(postgres_url, hearer):
            assert hearer.is_listening == 1
            for times in (2, 3):
                await database.execute(KILL_LISTENERS)
                await hearer.until(lambda times=times: hearer.begun == times)
            assert hearer.is_listening == 1
            await database.execute("notify animora, 'delete 1'")
            await hearer.until(lambda: hearer.facts)

    assert hearer.is_listening == 0
    assert [entry["log_level"] for entry in logs] == ["warning", "info"] * 2


async def cut(database, hearer, times):
    """Cuts the connection so many times, each time right after it began."""
    for _ in range(times):
        begun = hearer.begun
        await database.execute(KILL_LISTENERS)
        await hearer.until(lambda begun=begun: hearer.begun > begun)


async def lasts(database):
    """Waits until the connection has been tried again twice."""
    for _ in range(2):
        tried_at = await database.fetchval(TRIED_AT)
        async with asyncio.timeout(PATIENCE):
            while await database.fetchval(TRIED_AT) == tried_at:
                pass


async def test_connections_that_are_cut_right_after_they_began_are_made_ever_more_slowly(
    database, postgres_url, hearer
):
    with capture_logs() as logs:
        async with listener_of(postgres_url, hearer, listen_timeout=60.0):
            await cut(database, hearer, 4)

    delays = [entry["seconds"] for entry in logs if entry["log_level"] == "warning"]
    assert delays[0] <= FIRST_DELAY
    assert all(FIRST_DELAY * 2**n / 2 <= delay <= FIRST_DELAY * 2**n for n, delay in enumerate(delays))


async def test_a_connection_that_has_lasted_is_made_again_at_once(database, postgres_url, hearer):
    with capture_logs() as logs:
        async with listener_of(postgres_url, hearer, listen_timeout=0.05):
            await cut(database, hearer, 3)
            await lasts(database)
            await cut(database, hearer, 1)

    assert [entry["seconds"] for entry in logs if entry["log_level"] == "warning"][-1] <= FIRST_DELAY


@pytest.mark.parametrize("option", ["url", "listen_url"])
async def test_a_wrong_url_is_told_at_the_start(postgres_url, hearer, option):
    wrong = SecretStr("postgresql://animora@nowhere:hunter2/animora")
    settings = DatabaseSettings(url=SecretStr(postgres_url)).model_copy(update={option: wrong})
    with capture_logs() as logs, pytest.raises(ConfigurationError, match=rf"^database\.{option}: not a DSN"):
        await FactListener(settings, hearer.metrics, hearer.receive, hearer.listening).__aenter__()

    assert logs == []


async def test_a_silent_connection_is_tried_and_goes_on(database, postgres_url, hearer):
    async with listener_of(postgres_url, hearer, listen_timeout=0.05):
        first = await database.fetchval(TRIED_AT)
        async with asyncio.timeout(PATIENCE):
            while await database.fetchval(TRIED_AT) == first:
                pass
        await database.execute("notify animora, 'delete 1'")
        await hearer.until(lambda: hearer.facts)


async def test_a_server_that_freezes_is_left_and_heard_again_once_it_thaws(embedded_postgres, frozen, hearer):
    postgres = await embedded_postgres()
    with capture_logs() as logs:
        async with listener_of(postgres.url, hearer, listen_timeout=0.1, timeout=0.5):
            await hearer.until(lambda: hearer.begun)
            with frozen(postgres.pid):
                async with asyncio.timeout(PATIENCE):
                    while hearer.is_listening:  # noqa: ASYNC110 -- a gauge tells nobody that it has changed
                        await asyncio.sleep(0)
            await hearer.until(lambda: hearer.begun > 1)
            connection = await asyncpg.connect(postgres.url)
            await connection.execute("notify animora, 'delete 1'")
            await connection.close()
            await hearer.until(lambda: hearer.facts)

    assert "did not answer" in logs[0]["error"]


async def test_a_server_that_answers_but_notifies_nobody_counts_as_unheard(database, postgres_url, hearer):
    # What a pooler does that gives each transaction another connection.
    await database.execute(
        "create function public.pg_notify(text, text) returns void language sql as 'select'"
    )
    await database.execute(
        "do $$ begin execute format("
        "'alter database %I set search_path = animora_app, public, pg_catalog', current_database()"
        "); end $$"
    )
    with capture_logs() as logs:
        async with listener_of(postgres_url, hearer, listen_timeout=0.05):
            pass

    assert "database.listen_url" in logs[0]["error"]
    assert hearer.begun == 0
    assert hearer.is_listening == 0


async def test_the_end_does_not_wait_for_a_frozen_server(embedded_postgres, frozen, hearer):
    postgres = await embedded_postgres()
    listener = listener_of(postgres.url, hearer, listen_timeout=60.0)
    await listener.__aenter__()
    with frozen(postgres.pid):
        async with asyncio.timeout(PATIENCE):
            await listener.__aexit__(None, None, None)


async def test_a_server_that_comes_later_is_heard_of(embedded_postgres, hearer):
    postgres = await embedded_postgres()
    await postgres.stop()
    async with listener_of(postgres.url, hearer):
        assert hearer.begun == 0
        await postgres.start()
        await hearer.until(lambda: hearer.begun == 1)


async def test_a_receiver_that_fails_ends_nothing(database, postgres_url, hearer):
    failures = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))

    def receive(facts):
        hearer.receive(facts)
        raise ZeroDivisionError

    settings = DatabaseSettings(url=SecretStr(postgres_url))
    async with FactListener(settings, hearer.metrics, receive, hearer.listening):
        for count in (1, 2):
            await database.execute("notify animora, 'delete 1'")
            await hearer.until(lambda count=count: len(hearer.facts) == count)

    assert len(failures) == 2
