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
from tests.support.redis_servers import make_certificates
from tests.support.until import HANG_TIMEOUT, until

LISTENERS = """
from pg_stat_activity
where datname = current_database() and query like '%pg_notify%' and pid <> pg_backend_pid()
"""
KILL_LISTENERS = f"select pg_terminate_backend(pid) {LISTENERS}"
CHECKED_AT = f"select max(query_start) {LISTENERS}"


class RecordingReceiver:
    """Records the events that a listener passes on."""

    def __init__(self):
        self.events = []
        self.catch_ups = 0
        self.registry = CollectorRegistry()
        self.metrics = CatalogMetrics(self.registry)

    def receive(self, events):
        self.events.append(events)
        return True

    def catch_up(self):
        self.catch_ups += 1

    async def received(self, count):
        """Waits until this many batches of events have arrived."""
        await until(lambda: len(self.events) == count)

    async def caught_up(self, times):
        """Waits until the listener has called `catch_up` this often."""
        await until(lambda: self.catch_ups >= times)

    @property
    def merged(self):
        return ChangeEvents.merged(self.events)

    @property
    def is_listening(self):
        return self.registry.get_sample_value("animora_catalog_listening")

    def notifications(self, kind):
        return self.registry.get_sample_value("animora_catalog_notifications_total", {"kind": kind})


@pytest.fixture
def receiver():
    return RecordingReceiver()


def listener_of(url, receiver, **options):
    settings = DatabaseSettings(url=SecretStr(url), **{"listen_timeout": 5.0, **options})
    return EventListener(settings, receiver.metrics, receiver.receive, receiver.catch_up)


async def test_events_arrive_in_the_order_of_their_commits(database, postgres_url, receiver):
    await database.execute("insert into animora_app.posts (id, author_id) values (1, 1), (2, 1)")
    async with listener_of(postgres_url, receiver):
        for _ in range(20):
            await database.execute("insert into animora_app.block_relations values (1, 2)")
            await database.execute("delete from animora_app.block_relations")
        await database.execute("delete from animora_app.posts")
        await until(lambda: receiver.merged.deleted)

    assert receiver.merged == ChangeEvents(frozenset({(1, 2)}), frozenset({1, 2}), unblocked=True)
    assert [receiver.notifications(kind) for kind in ("block", "unblock", "delete")] == [20, 20, 1]


async def test_a_role_that_may_only_read_may_listen(database, postgres_url, receiver):
    async with listener_of(postgres_url.replace("animora@", "animora_reader@"), receiver):
        assert receiver.catch_ups == 1
        await database.execute("notify animora, 'block 1 2'")
        await until(lambda: receiver.events)


async def test_listen_url_may_differ_from_url(database, postgres_url, receiver):
    unreachable = "postgresql://animora@/none?host=/nowhere&sslmode=disable"
    async with listener_of(unreachable, receiver, listen_url=SecretStr(postgres_url)):
        assert receiver.catch_ups == 1


async def test_an_unreadable_payload_is_counted_and_skipped(database, postgres_url, receiver):
    async with listener_of(postgres_url, receiver):
        for payload in ("", "block 1", "drop table users", "block 1 2"):
            await database.execute("select pg_notify('animora', $1)", payload)
        await until(lambda: receiver.events)

    assert receiver.events == [ChangeEvents(frozenset({(1, 2)}))]
    assert receiver.notifications("unreadable") == 3


async def test_a_lost_connection_is_replaced_and_the_catalog_catches_up(database, postgres_url, receiver):
    with capture_logs() as logs:
        async with listener_of(postgres_url, receiver):
            assert receiver.is_listening == 1
            for times in (2, 3):
                await database.execute(KILL_LISTENERS)
                await receiver.caught_up(times)
            assert receiver.is_listening == 1
            await database.execute("notify animora, 'delete 1'")
            await until(lambda: receiver.events)

    assert receiver.is_listening == 0
    assert [entry["log_level"] for entry in logs] == ["warning"] * 2


async def kill_connections(database, receiver, times):
    """Terminates the connection repeatedly, each time right after it began to listen."""
    for _ in range(times):
        catch_ups = receiver.catch_ups
        await database.execute(KILL_LISTENERS)
        await receiver.caught_up(catch_ups + 1)


async def wait_for_check(database):
    """Waits until the delivery has been checked once more."""
    checked_at = await database.fetchval(CHECKED_AT)

    async def is_checked_again():
        return await database.fetchval(CHECKED_AT) != checked_at

    await until(is_checked_again)


async def test_reconnecting_backs_off_while_connections_are_lost_immediately(
    database, postgres_url, receiver
):
    with capture_logs() as logs:
        async with listener_of(postgres_url, receiver, listen_timeout=60.0):
            await kill_connections(database, receiver, 4)

    pauses = {entry["failures"]: entry["retry_seconds"] for entry in logs}
    first = Backoff().first
    assert set(pauses) == {1, 2, 4}
    assert all(first * n / 2 <= pause <= first * n for n, pause in pauses.items() if n < 4)
    assert 4 * first <= pauses[4] <= 8 * first


async def test_a_connection_that_lasted_is_replaced_at_once(database, postgres_url, receiver):
    with capture_logs() as logs:
        async with listener_of(postgres_url, receiver, listen_timeout=0.05):
            await kill_connections(database, receiver, 3)
            for _ in range(2):
                await wait_for_check(database)
            await kill_connections(database, receiver, 1)

    assert [entry["failures"] for entry in logs if entry["log_level"] == "warning"][-1] == 1


@pytest.mark.parametrize("option", ["url", "listen_url"])
async def test_an_invalid_url_is_a_configuration_error(postgres_url, receiver, option):
    wrong = SecretStr("postgresql://animora@nowhere:hunter2/animora")
    settings = DatabaseSettings(url=SecretStr(postgres_url)).model_copy(update={option: wrong})
    with capture_logs() as logs, pytest.raises(ConfigurationError, match=rf"^database\.{option}: not a DSN"):
        EventListener(settings, receiver.metrics, receiver.receive, receiver.catch_up)

    assert logs == []


async def test_a_silent_connection_is_checked_and_kept(database, postgres_url, receiver):
    async with listener_of(postgres_url, receiver, listen_timeout=0.05):
        await wait_for_check(database)
        await database.execute("notify animora, 'delete 1'")
        await until(lambda: receiver.events)


@pytest.mark.failure(24)
async def test_listening_resumes_after_a_frozen_server_thaws(embedded_postgres, frozen, receiver):
    postgres = await embedded_postgres()
    with capture_logs() as logs:
        async with listener_of(postgres.url, receiver, listen_timeout=0.1, timeout=0.5):
            await until(lambda: receiver.catch_ups)
            with frozen(postgres.pid):
                await until(lambda: not receiver.is_listening)
            await until(lambda: receiver.catch_ups > 1)
            connection = await asyncpg.connect(postgres.url)
            await connection.execute("notify animora, 'delete 1'")
            await connection.close()
            await until(lambda: receiver.events)

    assert "did not answer" in logs[0]["error"]


async def test_a_server_that_does_not_notify_does_not_count_as_listening(database, postgres_url, receiver):
    # As a pooler does that gives each transaction another connection.
    await database.execute(
        "create function public.pg_notify(text, text) returns void language sql as 'select'"
    )
    await database.execute(
        "do $$ begin execute format("
        "'alter database %I set search_path = animora_app, public, pg_catalog', current_database()"
        "); end $$"
    )
    with capture_logs() as logs:
        async with listener_of(postgres_url, receiver, listen_timeout=0.05):
            pass

    assert "database.listen_url" in logs[0]["error"]
    assert receiver.catch_ups == 0
    assert receiver.is_listening == 0


@pytest.mark.parametrize("mode", ["transaction", "statement"])
@pytest.mark.parametrize("size", [1, 4])
async def test_a_transaction_pooler_is_detected(pooled, postgres_url, receiver, mode, size):
    pooler = await pooled(mode, size)

    def is_refused():
        return any("database.listen_url" in entry["error"] for entry in logs if "error" in entry)

    with capture_logs() as logs:
        async with listener_of(pooler.url(postgres_url), receiver, listen_timeout=1.0):
            await until(is_refused)
            assert receiver.is_listening == 0

    assert receiver.catch_ups == 0


async def test_notifications_arrive_through_a_session_pooler(pooled, postgres_url, database, receiver):
    pooler = await pooled("session", 4)
    async with listener_of(pooler.url(postgres_url), receiver):
        await until(lambda: receiver.catch_ups)
        await database.execute("notify animora, 'delete 1'")
        await until(lambda: receiver.events)
        assert receiver.is_listening == 1


async def test_listen_url_may_bypass_a_pooler(pooled, postgres_url, database, receiver):
    pooler = await pooled("transaction", 1)
    async with listener_of(pooler.url(postgres_url), receiver, listen_url=SecretStr(postgres_url)):
        await until(lambda: receiver.catch_ups)
        await database.execute("notify animora, 'delete 1'")
        await until(lambda: receiver.events)


async def test_polls_take_over_when_too_many_notifications_arrive(database, postgres_url, receiver):
    with capture_logs() as logs:
        async with listener_of(postgres_url, receiver):
            await until(lambda: receiver.catch_ups == 1)
            await database.execute(
                "select pg_notify('animora', format('block %s %s', n, n + 1))"
                " from generate_series(1, 100000) as n"
            )
            # Once for the notifications that were dropped, and once more when there is a new connection.
            await until(lambda: receiver.catch_ups >= 3)
            await database.execute("notify animora, 'delete 1'")
            await until(lambda: receiver.merged.deleted)

    assert "more arrive than can be applied" in [entry.get("error") for entry in logs]
    assert receiver.notifications("dropped") > 0
    assert receiver.notifications("block") < 100_000


async def test_a_full_receiver_ends_the_connection(database, postgres_url, receiver):
    def receive(events):
        receiver.receive(events)
        return False

    settings = DatabaseSettings(url=SecretStr(postgres_url))
    with capture_logs() as logs:
        async with EventListener(settings, receiver.metrics, receive, receiver.catch_up):
            await database.execute("notify animora, 'delete 1'")
            await until(lambda: receiver.catch_ups >= 2)

    assert logs[0]["error"] == "more arrive than can be applied"


@asynccontextmanager
async def impostor(certificates):
    """The port of a server that starts TLS as PostgreSQL does, and the connection attempts."""
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


async def test_an_untrusted_certificate_is_retried(receiver, tmp_path):
    # As during a failover to a server that has not got its certificate yet.
    for name in ("trusted", "other"):
        (tmp_path / name).mkdir()
        make_certificates(tmp_path / name)
    options = f"sslmode=verify-ca&sslrootcert={tmp_path}/trusted/ca.pem"
    with capture_logs() as logs:
        async with impostor(tmp_path / "other") as (port, tries):
            listener = listener_of(f"postgresql://animora@127.0.0.1:{port}/x?{options}", receiver)
            async with listener, asyncio.timeout(HANG_TIMEOUT):
                for _ in range(3):
                    await tries.acquire()
                assert listener.loop.dead() is None

    assert listener.loop.failures["expected"] >= 2
    assert listener.loop.failures["unexpected"] == 0
    assert all("SSLCertVerificationError" in entry["error"] for entry in logs)
    assert receiver.is_listening == 0


@pytest.mark.failure(24)
async def test_stopping_does_not_wait_for_a_frozen_server(embedded_postgres, frozen, receiver):
    postgres = await embedded_postgres()
    listener = listener_of(postgres.url, receiver, listen_timeout=60.0)
    await listener.__aenter__()
    with frozen(postgres.pid):
        async with asyncio.timeout(HANG_TIMEOUT):
            await listener.__aexit__(None, None, None)


async def test_a_server_that_starts_later_is_listened_to(embedded_postgres, receiver):
    postgres = await embedded_postgres()
    await postgres.stop()
    async with listener_of(postgres.url, receiver):
        assert receiver.catch_ups == 0
        await postgres.start()
        await until(lambda: receiver.catch_ups == 1)


async def test_an_error_of_the_receiver_does_not_stop_listening(database, postgres_url, receiver):
    failures = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))

    def receive(events):
        receiver.receive(events)
        raise ZeroDivisionError

    settings = DatabaseSettings(url=SecretStr(postgres_url))
    async with EventListener(settings, receiver.metrics, receive, receiver.catch_up):
        for count in (1, 2):
            await database.execute("notify animora, 'delete 1'")
            await receiver.received(count)

    assert len(failures) == 2
