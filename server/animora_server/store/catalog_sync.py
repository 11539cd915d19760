"""Keeps the catalog in sync with the database: a load, then polls, and at intervals a reconcile."""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Self

import numpy as np
import structlog

from animora_database.reading import hiding_warning
from animora_server.background import BackgroundLoop
from animora_server.catalog import (
    NO_PREFERENCE,
    NO_WIDTHS,
    Catalog,
    CatalogSnapshot,
    ChangeEvents,
    EventLog,
    WidthPreference,
    Widths,
)
from animora_server.errors import ConfigurationError
from animora_server.observability.metrics import CatalogMetrics
from animora_server.settings import CatalogSettings
from animora_server.store.protocols import CatalogStore
from animora_server.store.refresh import InteractionScan, Refresh, count_rows
from animora_server.store.schedule import ReconcileSchedule

log = structlog.get_logger(__name__)

MAX_DELETIONS = 5_000  # notified deletions kept for the next poll


class CatalogSync:
    """Loads the catalog in the background, refreshes it, and publishes a snapshot after each refresh.

    A poll finds recent changes and notified deletions. A reconcile finds everything else: other posts that
    left the view, old likes that were removed, and commits that took longer than the recount window. After a
    reconcile the catalog equals a fresh load. While PostgreSQL is unavailable the last snapshot stays, and
    its blocks get older.

    A reconcile begins with a count of all interactions, over a separate connection while polls continue.
    `ReconcileSchedule` decides when it is due.

    Args:
        store: The database.
        settings: Intervals and windows.
        metrics: Records refreshes and the state of the catalog.
        publish: Publishes a snapshot to requests; awaited before the next refresh begins.
        preference: Returns the embedding widths that the models take.

    Attributes:
        loops: The loop that polls, and the loop that counts interactions.
    """

    def __init__(
        self,
        store: CatalogStore,
        settings: CatalogSettings,
        metrics: CatalogMetrics,
        publish: Callable[[CatalogSnapshot], Awaitable[None]],
        preference: Callable[[], WidthPreference] = lambda: NO_PREFERENCE,
    ) -> None:
        self._preference = preference
        self._store = store
        self._counting_store = store.with_separate_connection()
        self._settings = settings
        self._metrics = metrics
        self._publish = publish
        self._catalog = Catalog.empty(settings.directory)
        self._read_at: datetime | None = None  # the database's time of the last reading; None before the load
        self._refreshed_at = float("-inf")  # time.monotonic()
        self._poll_now = asyncio.Event()
        self._event_log = EventLog()  # of deletions only
        # As logged last, so that each state is logged once.
        self._unusable = NO_WIDTHS
        self._hidden: Sequence[tuple[str, str, str]] = ()
        self._no_posts = False
        self._left_out: dict[tuple[str, str], int] = {}
        self._count: InteractionScan | None = None  # for the next refresh
        self._schedule = ReconcileSchedule(settings.reconcile_interval)  # by time.monotonic()
        self._count_now = asyncio.Event()
        self._count_seconds = 0.0  # of the last count
        self._polls = BackgroundLoop("catalog-refresher", self._refresh_round, wake=self._poll_now)
        self._counts = BackgroundLoop("interaction-counter", self._count_round, wake=self._count_now)
        self.loops = (self._polls, self._counts)

    async def __aenter__(self) -> Self:
        """Starts the loops.

        Raises:
            ConfigurationError: The directory for the embeddings cannot be created or written to.
        """
        _require_writable(self._settings.directory)
        self._metrics.age_from(lambda: time.monotonic() - self._refreshed_at)
        for loop in self.loops:
            loop.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        """Stops at once, without waiting for the database."""
        for loop in self.loops:
            await loop.stop()
        for store in (self._store, self._counting_store):
            store.close()

    def add_events(self, events: ChangeEvents) -> bool:
        """Keeps notified deletions for the next poll, which cannot find deleted posts without them.

        Returns:
            Whether there is room for more.
        """
        if events.deleted:
            self._event_log.add(ChangeEvents(deleted=events.deleted), time.monotonic())
        return len(self._event_log) < MAX_DELETIONS

    def catch_up(self) -> None:
        """Polls at once and requests a reconcile, because notifications may have been missed."""
        self._poll_now.set()
        self._schedule.events_missed(time.monotonic())
        self._count_now.set()

    async def _refresh_round(self) -> float:
        try:
            await self.refresh()
        except Exception:
            self._metrics.refreshes["error"].inc()
            raise
        self._metrics.refreshes["ok"].inc()
        return self._settings.poll_interval

    async def _count_round(self) -> float:
        self._count_now.clear()
        if self._read_at is None or self._count is not None:
            return self._settings.poll_interval
        wait = self._schedule.seconds_until_due(time.monotonic())
        if wait > 0:
            return wait
        await self.count()
        self._poll_now.set()
        return self._settings.poll_interval

    async def count(self) -> None:
        """Counts all interactions for the next refresh, which is then a reconcile.

        Raises:
            StoreError: The database did not answer.
        """
        began = time.monotonic()
        try:
            async with self._counting_store.reading() as reading:
                count = await count_rows(reading, self._settings)
        except BaseException:
            self._schedule.count_failed(time.monotonic(), time.monotonic() - began)
            raise
        finally:
            self._counting_store.close()  # the next count is due much later
        self._count_seconds = time.monotonic() - began
        self._schedule.count_succeeded(time.monotonic(), self._count_seconds)
        self._count = count

    async def refresh(self) -> None:
        """Brings the catalog up to date and publishes it.

        Raises:
            AnimoraError: The database did not answer, or publishing failed.
            OSError: The embeddings cannot be written.
        """
        began = time.monotonic()
        since, count = self._read_at, self._count
        self._poll_now.clear()
        if count is not None:
            # If this reconcile fails, polls continue until the next one is due.
            self._count = None
            self._schedule.reconcile_began(began)
        async with self._store.reading() as reading:
            refresh = Refresh(reading, self._catalog, self._settings, began, self._preference())
            if since is None or count is not None:
                catalog = await refresh.reconcile(count)
            else:
                catalog = await refresh.poll(since, self._event_log.since(float("-inf")).deleted_ids)
        # Kept even if publishing fails, so that rows that a model has encoded are not assigned again.
        self._catalog = catalog
        self._read_at = reading.now
        self._event_log.forget(began)
        await self._publish(catalog.snapshot)
        self._refreshed_at = time.monotonic()
        seconds = self._refreshed_at - began
        self._record(seconds)
        if since is not None and reading.now < since:
            log.warning("database clock stepped back", seconds=(since - reading.now).total_seconds())
        if refresh.lacks_interactions(catalog):
            self._schedule.events_missed(time.monotonic())
            self._count_now.set()
        if since is None or count is not None:
            took = 0.0 if since is None else self._count_seconds + seconds
            self._schedule.reconcile_published(time.monotonic(), began, took)
            self._count_now.set()
        if since is None:
            log.info("catalog loaded", posts=len(catalog.snapshot), seconds=round(seconds, 3))
        self._report_left_out(refresh.left_out)
        if refresh.hidden is not None:
            self._report_hidden(refresh.hidden)
        if refresh.unusable is not None:
            self._report_unusable(refresh.unusable)

    def _report_hidden(self, hidden: Sequence[tuple[str, str, str]]) -> None:
        """Records and logs tables that hide rows by row-level security, and a catalog without any posts."""
        self._metrics.hiding_tables.set(len({table for _, table, _ in hidden}))
        for row in hidden:
            if row not in self._hidden:
                log.warning(hiding_warning(*row))
        self._hidden = hidden
        no_posts = not len(self._catalog.snapshot) and len(self._catalog.activity.base.counts) > 0
        if no_posts and not self._no_posts:
            log.warning("animora.posts shows no posts, though animora.interactions shows interactions")
        self._no_posts = no_posts

    def _report_left_out(self, left_out: Mapping[tuple[str, str], int]) -> None:
        for (view, reason), rows in left_out.items():
            self._metrics.left_out[view, reason].set(rows)
            if rows and rows != self._left_out.get((view, reason)):
                log.warning("rows of a view left out", view=view, reason=reason, rows=rows)
        self._left_out.update(left_out)

    def _report_unusable(self, unusable: Widths) -> None:
        """Records the number of embeddings that count as absent, and logs an increase."""
        kept = self._catalog.snapshot.embeddings.widths
        for column, count, before, width in (
            ("image", unusable.image, self._unusable.image, kept.image),
            ("caption", unusable.caption, self._unusable.caption, kept.caption),
        ):
            self._metrics.unusable_embeddings[column].set(count)
            if count > before:
                log.warning(
                    "embeddings of another width, or not finite, count as absent",
                    column=f"{column}_embedding",
                    posts=count,
                    width=width,
                )
        self._unusable = unusable

    def _record(self, seconds: float) -> None:
        snapshot = self._catalog.snapshot
        self._metrics.posts.set(len(snapshot) - int(np.count_nonzero(snapshot.deleted)))
        self._metrics.bytes.set(self._catalog.nbytes)
        self._metrics.epoch.set(snapshot.epoch)
        self._metrics.refresh_seconds.observe(seconds)


def _require_writable(directory: Path | None) -> None:
    """Creates the directory for the embeddings, if one is set, and checks that it can be written to."""
    try:
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        where = "the temporary directory" if directory is None else directory
        raise ConfigurationError(f"catalog.directory: cannot write to {where} ({error.strerror})") from error
