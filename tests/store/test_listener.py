import asyncio
import ssl
from contextlib import asynccontextmanager, suppress

import asyncpg
import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from structlog.testing import capture_logs

from animora_server.background import Backoff
from animora_server.catalog import ChangeEvents
from animora_server.errors import ConfigurationError
from animora_server.observability.metrics import CatalogMetrics
from animora_server.settings import DatabaseSettings
from animora_server.store import EventListener
from tests.cache.servers import make_certificates
from tests.limits import HANG_TIMEOUT

LISTENERS = """
from pg_stat_activity
where datname = current_database() and query like '%pg_notify%' and pid <> pg_backend_pid()
"""
KILL_LISTENERS = f"select pg_terminate_backend(pid) {LISTENERS}"
TRIED_AT = f"select max(query_start) {LISTENERS}"


class Hearer:
    """Takes what a listener tells."""

    def __init__(self):
        self.events = []
        self.begun = 0
        self._news = asyncio.Condition()
        self.registry = CollectorRegistry()
        self.metrics = CatalogMetrics(self.registry)
        self._tasks = set()

    def receive(self, events):
        self.events.append(events)
        self._tell()
        return True

    def catch_up(self):
        self.begun += 1
        self._tell()

    @property
    def merged(self):
        return ChangeEvents.merged(self.events)

    @property
    def is_listening(self):
        return self.registry.get_sample_value("animora_catalog_listening")

    def notifications(self, kind):
        return self.registry.get_sample_value("animora_catalog_notifications_total", {"kind": kind})

    async def until(self, holds):
        async with asyncio.timeout(HANG_TIMEOUT), self._news:
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
    return EventListener(settings, hearer.metrics, hearer.receive, hearer.catch_up)


async def test_facts_are_heard_in_the_order_of_their_commits(database, postgres_url, hearer):
    await database.execute("insert into animora_app.posts (id, author_id) values (1, 1), (2, 1)")
    async with listener_of(postgres_url, hearer):
        for _ in range(20):
            await database.execute("insert into animora_app.block_relations values (1, 2)")
            await database.execute("delete from animora_app.block_relations")
        await database.execute("delete from animora_app.posts")
        await hearer.until(lambda: hearer.merged.deleted)

    assert hearer.merged == ChangeEvents(frozenset({(1, 2)}), frozenset({1, 2}), unblocked=True)
    assert [hearer.notifications(kind) for kind in ("block", "unblock", "delete")] == [20, 20, 1]


async def test_a_role_that_may_only_read_may_listen(database, postgres_url, hearer):
    async with listener_of(postgres_url.replace("animora@", "animora_reader@"), hearer):
        assert hearer.begun == 1
        await database.execute("notify animora, 'block 1 2'")
        await hearer.until(lambda: hearer.events)


async def test_the_connection_may_lead_elsewhere_than_that_of_the_polls(database, postgres_url, hearer):
    away = "postgresql://animora@/none?host=/nowhere&sslmode=disable"
    async with listener_of(away, hearer, listen_url=SecretStr(postgres_url)):
        assert hearer.begun == 1


async def test_what_is_no_fact_is_counted_and_passed_over(database, postgres_url, hearer):
    async with listener_of(postgres_url, hearer):
        for payload in ("", "block 1", "drop table users", "block 1 2"):
            await database.execute("select pg_notify('animora', $1)", payload)
        await hearer.until(lambda: hearer.events)

    assert hearer.events == [ChangeEvents(frozenset({(1, 2)}))]
    assert hearer.notifications("unreadable") == 3


async def test_a_connection_that_is_cut_is_made_again_and_says_so(database, postgres_url, hearer):
    with capture_logs() as logs:
        async with listener_of(postgres_url, hearer):
            assert hearer.is_listening == 1
            for times in (2, 3):
                await database.execute(KILL_LISTENERS)
                await hearer.until(lambda times=times: hearer.begun >= times)
            assert hearer.is_listening == 1
            await database.execute("notify animora, 'delete 1'")
            await hearer.until(lambda: hearer.events)

    assert hearer.is_listening == 0
    assert [entry["log_level"] for entry in logs] == ["warning"] * 2


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
        async with asyncio.timeout(HANG_TIMEOUT):
            while await database.fetchval(TRIED_AT) == tried_at:
                pass


async def test_connections_that_are_cut_right_after_they_began_are_made_ever_more_slowly(
    database, postgres_url, hearer
):
    with capture_logs() as logs:
        async with listener_of(postgres_url, hearer, listen_timeout=60.0):
            await cut(database, hearer, 4)

    pauses = {entry["failures"]: entry["retry_seconds"] for entry in logs}
    first = Backoff().first
    assert set(pauses) == {1, 2, 4}
    assert all(first * n / 2 <= pause <= first * n for n, pause in pauses.items() if n < 4)
    assert 4 * first <= pauses[4] <= 8 * first


async def test_a_connection_that_has_lasted_is_made_again_at_once(database, postgres_url, hearer):
    with capture_logs() as logs:
        async with listener_of(postgres_url, hearer, listen_timeout=0.05):
            await cut(database, hearer, 3)
            await lasts(database)
            await cut(database, hearer, 1)

    assert [entry["failures"] for entry in logs if entry["log_level"] == "warning"][-1] == 1


@pytest.mark.parametrize("option", ["url", "listen_url"])
async def test_a_wrong_url_is_told_at_the_start(postgres_url, hearer, option):
    wrong = SecretStr("postgresql://animora@nowhere:hunter2/animora")
    settings = DatabaseSettings(url=SecretStr(postgres_url)).model_copy(update={option: wrong})
    with capture_logs() as logs, pytest.raises(ConfigurationError, match=rf"^database\.{option}: not a DSN"):
        EventListener(settings, hearer.metrics, hearer.receive, hearer.catch_up)

    assert logs == []


async def test_a_silent_connection_is_tried_and_goes_on(database, postgres_url, hearer):
    async with listener_of(postgres_url, hearer, listen_timeout=0.05):
        first = await database.fetchval(TRIED_AT)
        async with asyncio.timeout(HANG_TIMEOUT):
            while await database.fetchval(TRIED_AT) == first:
                pass
        await database.execute("notify animora, 'delete 1'")
        await hearer.until(lambda: hearer.events)


async def test_a_server_that_freezes_is_left_and_heard_again_once_it_thaws(embedded_postgres, frozen, hearer):
    postgres = await embedded_postgres()
    with capture_logs() as logs:
        async with listener_of(postgres.url, hearer, listen_timeout=0.1, timeout=0.5):
            await hearer.until(lambda: hearer.begun)
            with frozen(postgres.pid):
                async with asyncio.timeout(HANG_TIMEOUT):
                    while hearer.is_listening:  # noqa: ASYNC110 -- a gauge tells nobody that it has changed
                        await asyncio.sleep(0)
            await hearer.until(lambda: hearer.begun > 1)
            connection = await asyncpg.connect(postgres.url)
            await connection.execute("notify animora, 'delete 1'")
            await connection.close()
            await hearer.until(lambda: hearer.events)

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


@pytest.mark.parametrize("mode", ["transaction", "statement"])
@pytest.mark.parametrize("size", [1, 4])
async def test_a_pooler_that_gives_each_transaction_another_connection_is_noticed(
    pooled, postgres_url, hearer, mode, size
):
    pooler = await pooled(mode, size)

    def told():
        return any("database.listen_url" in entry["error"] for entry in logs if "error" in entry)

    with capture_logs() as logs:
        async with listener_of(pooler.url(postgres_url), hearer, listen_timeout=1.0):
            async with asyncio.timeout(HANG_TIMEOUT):
                while not told():  # noqa: ASYNC110 -- a log tells nobody that it has grown
                    await asyncio.sleep(0.01)
            assert hearer.is_listening == 0

    assert hearer.begun == 0


async def test_a_pooler_that_gives_each_session_a_connection_lets_notifications_through(
    pooled, postgres_url, database, hearer
):
    pooler = await pooled("session", 4)
    async with listener_of(pooler.url(postgres_url), hearer):
        await hearer.until(lambda: hearer.begun)
        await database.execute("notify animora, 'delete 1'")
        await hearer.until(lambda: hearer.events)
        assert hearer.is_listening == 1


async def test_notifications_may_come_past_a_pooler(pooled, postgres_url, database, hearer):
    pooler = await pooled("transaction", 1)
    async with listener_of(pooler.url(postgres_url), hearer, listen_url=SecretStr(postgres_url)):
        await hearer.until(lambda: hearer.begun)
        await database.execute("notify animora, 'delete 1'")
        await hearer.until(lambda: hearer.events)


async def test_more_notifications_than_can_be_applied_are_left_to_polls(database, postgres_url, hearer):
    with capture_logs() as logs:
        async with listener_of(postgres_url, hearer):
            await hearer.until(lambda: hearer.begun == 1)
            await database.execute(
                "select pg_notify('animora', format('block %s %s', n, n + 1))"
                " from generate_series(1, 100000) as n"
            )
            # Once for the notifications that were dropped, and once more when there is a new connection.
            await hearer.until(lambda: hearer.begun >= 3)
            await database.execute("notify animora, 'delete 1'")
            await hearer.until(lambda: hearer.merged.deleted)

    assert "more arrive than can be applied" in [entry.get("error") for entry in logs]
    assert hearer.notifications("dropped") > 0
    assert hearer.notifications("block") < 100_000


async def test_a_receiver_that_takes_no_more_ends_the_connection(database, postgres_url, hearer):
    def receive(events):
        hearer.receive(events)
        return False

    settings = DatabaseSettings(url=SecretStr(postgres_url))
    with capture_logs() as logs:
        async with EventListener(settings, hearer.metrics, receive, hearer.catch_up):
            await database.execute("notify animora, 'delete 1'")
            await hearer.until(lambda: hearer.begun >= 2)

    assert logs[0]["error"] == "more arrive than can be applied"


@asynccontextmanager
async def impostor(certificates):
    """The port of something that takes up TLS as PostgreSQL does, and how often it was tried."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "leaf.pem", certificates / "leaf.key")
    tries = asyncio.Semaphore(0)

    async def connected(reader, writer):
        await reader.readexactly(8)
        writer.write(b"S")
        tries.release()
        with suppress(OSError):
            await writer.start_tls(context)
        writer.close()

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], tries


async def test_a_certificate_that_is_not_trusted_is_no_wrong_url_and_is_tried_again(hearer, tmp_path):
    # As during a failover to a server that has not got its certificate yet.
    for name in ("trusted", "other"):
        (tmp_path / name).mkdir()
        make_certificates(tmp_path / name)
    options = f"sslmode=verify-ca&sslrootcert={tmp_path}/trusted/ca.pem"
    with capture_logs() as logs:
        async with impostor(tmp_path / "other") as (port, tries):
            listener = listener_of(f"postgresql://animora@127.0.0.1:{port}/x?{options}", hearer)
            async with listener, asyncio.timeout(HANG_TIMEOUT):
                for _ in range(3):
                    await tries.acquire()
                assert listener.loop.dead() is None

    assert listener.loop.failures["expected"] >= 2
    assert listener.loop.failures["unexpected"] == 0
    assert all("SSLCertVerificationError" in entry["error"] for entry in logs)
    assert hearer.is_listening == 0


async def test_the_end_does_not_wait_for_a_frozen_server(embedded_postgres, frozen, hearer):
    postgres = await embedded_postgres()
    listener = listener_of(postgres.url, hearer, listen_timeout=60.0)
    await listener.__aenter__()
    with frozen(postgres.pid):
        async with asyncio.timeout(HANG_TIMEOUT):
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

    def receive(events):
        hearer.receive(events)
        raise ZeroDivisionError

    settings = DatabaseSettings(url=SecretStr(postgres_url))
    async with EventListener(settings, hearer.metrics, receive, hearer.catch_up):
        for count in (1, 2):
            await database.execute("notify animora, 'delete 1'")
            await hearer.until(lambda count=count: len(hearer.events) == count)

    assert len(failures) == 2
