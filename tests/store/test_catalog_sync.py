import asyncio
import math
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

import asyncpg
import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from pydantic import SecretStr
from structlog.testing import capture_logs

from animora_database.views import VIEWS
from animora_demo.embedded import apply_schema
from animora_server.catalog import CatalogSnapshot
from animora_server.errors import ConfigurationError, ScoringFailed, StoreError
from animora_server.observability.metrics import CatalogMetrics
from animora_server.settings import CatalogSettings, DatabaseSettings
from animora_server.store import CatalogSync, PostgresStore
from tests.support.until import HANG_TIMEOUT, until

FAST = CatalogSettings(poll_interval=0.02, reconcile_interval=0.05)


class Published:
    """Takes snapshots, as the scorer does."""

    def __init__(self):
        self.snapshots = []

    async def publish(self, snapshot):
        self.snapshots.append(snapshot)

    async def until(self, holds):
        """Waits for the first later snapshot for which a condition holds."""
        seen = len(self.snapshots)
        await until(lambda: any(map(holds, self.snapshots[seen:])))
        return next(filter(holds, self.snapshots[seen:]))


async def nothing():
    pass


class WatchedStore:
    """A store with events for the begin and the failure of a reading.

    Args:
        store: The store.
        before: Called at the begin of each reading.
        before_separate: Called at the begin of each reading of a separate connection.
    """

    def __init__(self, store, before=nothing, before_separate=nothing):
        self._store = store
        self._before, self._before_separate = before, before_separate
        self.begun = asyncio.Event()
        self.failed = asyncio.Event()

    @asynccontextmanager
    async def reading(self, views=VIEWS):
        self.begun.set()
        try:
            await self._before()
            async with self._store.reading(views) as reading:
                yield reading
        except StoreError:
            self.failed.set()
            raise

    def with_separate_connection(self):
        return WatchedStore(self._store.with_separate_connection(), self._before_separate)

    def close(self):
        self._store.close()


@pytest.fixture
def published():
    return Published()


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def metrics(registry):
    return CatalogMetrics(registry)


@pytest.fixture
async def own_postgres(embedded_postgres):
    """A PostgreSQL of this test's own, with the schema."""
    postgres = await embedded_postgres()
    await apply_schema(postgres.url)
    return postgres


def watched_store_of(postgres):
    settings = DatabaseSettings(url=SecretStr(postgres.url), command_timeout=2 * HANG_TIMEOUT)
    return WatchedStore(PostgresStore(settings))


async def happened(event):
    """Waits until an event is set again."""
    event.clear()
    async with asyncio.timeout(HANG_TIMEOUT):
        await event.wait()


def anything(_):
    return True


def knows(*post_ids):
    return lambda snapshot: (snapshot.rows(np.array(post_ids)) >= 0).all()


def knows_not(post_id):
    return lambda snapshot: not knows(post_id)(snapshot)


async def test_a_catalog_is_loaded_published_and_refreshed(database, store, metrics, published):
    await database.execute("insert into animora_app.posts (id, author_id) values (1, 1)")
    async with CatalogSync(store, FAST, metrics, published.publish):
        await published.until(knows(1))
        await database.execute("insert into animora_app.posts (id, author_id) values (2, 1)")
        await published.until(knows(1, 2))
        await database.execute("delete from animora_app.posts where id = 1")
        await published.until(knows_not(1))

    times = [snapshot.blocks_read_at for snapshot in published.snapshots]
    assert times == sorted(set(times))
    assert {snapshot.epoch for snapshot in published.snapshots} == {1}


async def test_metrics_describe_the_catalog(database, store, registry, metrics, published):
    await database.execute(
        "insert into animora_app.posts (author_id, deleted_at) values (1, null), (1, now())"
    )
    async with CatalogSync(store, FAST, metrics, published.publish):
        assert registry.get_sample_value("animora_catalog_age_seconds") == math.inf
        for _ in range(2):  # the first is recorded by the time that there is a second
            await published.until(anything)

        assert registry.get_sample_value("animora_catalog_posts") == 1
        assert registry.get_sample_value("animora_catalog_epoch") == 1
        assert registry.get_sample_value("animora_catalog_bytes") > 0
        assert registry.get_sample_value("animora_catalog_refreshes_total", {"outcome": "ok"}) >= 1
        assert registry.get_sample_value("animora_catalog_age_seconds") < math.inf


@pytest.mark.failure(24)
async def test_the_catalog_is_loaded_when_postgres_starts_later_and_refreshed_after_an_outage(
    own_postgres, registry, metrics, published
):
    store = watched_store_of(own_postgres)
    await own_postgres.stop()
    async with CatalogSync(store, FAST, metrics, published.publish):
        await happened(store.failed)
        await own_postgres.start()
        await published.until(anything)

        await own_postgres.kill()
        await happened(store.failed)
        await own_postgres.start()
        connection = await asyncpg.connect(own_postgres.url)
        await connection.execute("insert into animora_app.users values (1)")
        await connection.execute("insert into animora_app.posts (id, author_id) values (1, 1)")
        await connection.close()
        await published.until(knows(1))

    assert registry.get_sample_value("animora_catalog_refreshes_total", {"outcome": "error"}) >= 2


@pytest.mark.failure(24)
async def test_stopping_does_not_wait_for_a_frozen_server(own_postgres, frozen, metrics, published):
    store = watched_store_of(own_postgres)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(CatalogSync(store, FAST, metrics, published.publish))
        await published.until(anything)
        with frozen(own_postgres.pid):
            await happened(store.begun)
            async with asyncio.timeout(HANG_TIMEOUT):  # half of what a query may take
                await stack.aclose()


@pytest.mark.failure(24)
async def test_refreshes_continue_after_a_frozen_server_thaws(own_postgres, frozen, metrics, published):
    store = watched_store_of(own_postgres)
    async with CatalogSync(store, FAST, metrics, published.publish):
        await published.until(anything)
        with frozen(own_postgres.pid):
            await happened(store.begun)
        await published.until(anything)


async def test_missing_views_are_logged_and_waited_for(database, postgres_url, metrics, published):
    store = WatchedStore(PostgresStore(DatabaseSettings(url=SecretStr(postgres_url))))
    await database.execute("alter schema animora rename to migrating")
    with capture_logs() as logs:
        async with CatalogSync(store, FAST, metrics, published.publish):
            await happened(store.failed)
            await happened(store.failed)
            await database.execute("alter schema migrating rename to animora")
            await published.until(anything)

    warnings = [entry["error"] for entry in logs if entry["log_level"] == "warning"]
    assert warnings
    assert all("deploy/sql" in warning for warning in warnings)


async def test_rows_of_a_snapshot_that_failed_to_publish_are_not_assigned_again(
    database, store, metrics, published
):
    await database.execute("insert into animora_app.posts (id, author_id) values (1, 1)")
    refused: list[CatalogSnapshot] = []

    async def publish(snapshot):
        if not refused:
            refused.append(snapshot)
            await database.execute("update animora_app.posts set author_id = 2")
            raise ScoringFailed("not now")
        await published.publish(snapshot)

    async with CatalogSync(store, FAST, metrics, publish):
        snapshot = await published.until(anything)

    assert snapshot.epoch == refused[0].epoch
    assert snapshot.author_ids.tolist() == [1, 2]
    assert snapshot.rows(np.array([1])).tolist() == [1]


async def test_unusable_embeddings_are_logged_once(database, store, metrics, published):
    await database.execute(
        "insert into animora_app.posts (id, author_id, image_embedding)"
        " values (1, 1, '{1,2}'), (2, 1, '{1,2,3}')"
    )
    with capture_logs() as logs:
        async with CatalogSync(store, FAST, metrics, published.publish):
            await published.until(anything)
            await database.execute("update animora_app.posts set image_embedding = '{1}' where id = 2")
            await published.until(anything)
            await published.until(anything)

    (entry,) = [entry for entry in logs if "count as absent" in entry["event"]]
    assert (entry["column"], entry["posts"], entry["width"]) == ("image_embedding", 1, 2)


async def test_a_bug_fails_one_refresh_and_is_logged_with_its_traceback(database, store, metrics, published):
    async def publish(snapshot):
        if not published.snapshots:
            published.snapshots.append(snapshot)
            raise ZeroDivisionError
        await published.publish(snapshot)

    with capture_logs() as logs:
        async with CatalogSync(store, FAST, metrics, publish):
            await published.until(anything)

    assert [type(entry["exc_info"]) for entry in logs if entry["log_level"] == "error"] == [ZeroDivisionError]


@pytest.mark.parametrize("window", [{"seen_window_days": 1e6}, {"recount_window": 1e12}])
async def test_windows_may_reach_back_before_the_earliest_time(database, store, metrics, published, window):
    await database.execute("insert into animora_app.posts (id, author_id) values (1, 1)")
    await database.execute("insert into animora_app.likes values (2, 1, now() - interval '1000 years')")
    settings = FAST.model_copy(update=window)
    with capture_logs() as logs:
        async with CatalogSync(store, settings, metrics, published.publish):
            await published.until(knows(1))
            snapshot = await published.until(anything)

    assert snapshot.interactions.tolist() == [1]
    assert snapshot.seen_posts(2).tolist() == [1]
    assert [entry for entry in logs if entry["log_level"] in ("warning", "error")] == []


async def test_polls_continue_while_interactions_are_counted(database, store, metrics, published):
    counting, released = asyncio.Event(), asyncio.Event()

    async def wait():
        counting.set()
        await released.wait()

    await database.execute("insert into animora_app.posts (id, author_id) values (1, 1)")
    async with CatalogSync(WatchedStore(store, before_separate=wait), FAST, metrics, published.publish):
        await published.until(knows(1))
        async with asyncio.timeout(HANG_TIMEOUT):
            await counting.wait()
        await database.execute("insert into animora_app.posts (id, author_id) values (2, 1)")
        await published.until(knows(1, 2))
        await database.execute("alter table animora_app.posts disable trigger notify_gone")
        await database.execute("delete from animora_app.posts where id = 1")
        released.set()
        await published.until(knows_not(1))


async def test_a_count_whose_reconcile_fails_is_repeated_later(database, store, metrics, published):
    failed = asyncio.Event()

    async def fail_once():
        if not failed.is_set():
            failed.set()
            raise StoreError("not now")

    await database.execute("insert into animora_app.posts (id, author_id) values (1, 1)")
    async with CatalogSync(WatchedStore(store, before_separate=fail_once), FAST, metrics, published.publish):
        await published.until(knows(1))
        await database.execute("delete from animora_app.posts where id = 1")
        await published.until(knows_not(1))

    assert failed.is_set()


async def test_a_like_made_after_the_clock_stepped_back_does_not_wait_for_a_reconcile(
    database, store, metrics, published
):
    class Clock:
        ahead = timedelta(hours=1)

    class Store(WatchedStore):
        @asynccontextmanager
        async def reading(self, views=VIEWS):
            async with self._store.reading(views) as reading:
                reading.now += Clock.ahead
                yield reading

        def with_separate_connection(self):
            return Store(self._store.with_separate_connection())

    await database.execute("insert into animora_app.posts (id, author_id) values (1, 1)")
    rarely = FAST.model_copy(update={"reconcile_interval": 86_400.0})
    with capture_logs() as logs:
        async with CatalogSync(Store(store), rarely, metrics, published.publish):
            await published.until(knows(1))
            Clock.ahead = timedelta()
            await database.execute("insert into animora_app.likes values (2, 1, now())")
            await published.until(lambda snapshot: snapshot.seen_posts(2).tolist() == [1])
    (line,) = [entry for entry in logs if entry["event"] == "database clock stepped back"]
    assert 3590 < line["seconds"] < 3600


async def test_the_directory_is_created_and_left_empty(database, store, metrics, published, tmp_path):
    settings = FAST.model_copy(update={"directory": tmp_path / "deep" / "down"})
    await database.execute(
        "insert into animora_app.posts (id, author_id, image_embedding) values (1, 1, '{1,2}')"
    )
    async with CatalogSync(store, settings, metrics, published.publish):
        snapshot = await published.until(knows(1))

    assert snapshot.embeddings.read(0, 1)[0].tolist() == [[1, 2]]
    assert list((tmp_path / "deep" / "down").iterdir()) == []


async def test_a_missing_temporary_directory_is_a_configuration_error(
    store, metrics, published, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(
        ConfigurationError, match=r"catalog\.directory: cannot write to the temporary directory"
    ):
        async with CatalogSync(store, FAST, metrics, published.publish):
            pass


@pytest.mark.parametrize("directory", ["file/folder", "file", "/proc"])
async def test_a_directory_that_cannot_be_written_to_is_a_configuration_error(
    store, metrics, published, tmp_path, directory
):
    (tmp_path / "file").touch()
    settings = FAST.model_copy(update={"directory": tmp_path / directory})

    with pytest.raises(ConfigurationError, match=r"catalog\.directory"):
        async with CatalogSync(store, settings, metrics, published.publish):
            pass
