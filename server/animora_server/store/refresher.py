"""Keeps the catalog like the database: a load, then polls, and from time to time a reconcile."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import datetime
from types import TracebackType
from typing import Self

import numpy as np
import structlog

from animora_server.background import log_task_failure, stop
from animora_server.catalog import (
    NO_PREFERENCE,
    NO_WIDTHS,
    Catalog,
    CatalogSnapshot,
    Facts,
    RecentFacts,
    WidthPreference,
    Widths,
)
from animora_server.errors import AnimoraError, ConfigurationError
from animora_server.metrics import CatalogMetrics
from animora_server.settings import CatalogSettings
from animora_server.store.protocols import CatalogStore
from animora_server.store.refresh import Refresh

log = structlog.get_logger(__name__)

FIRST_DELAY = 0.1  # seconds before the first retry
LONGEST_DELAY = 2.0  # seconds; PostgreSQL is used again this soon after it came back


class CatalogRefresher:
    """Loads the catalog in the background, keeps it fresh, and publishes a snapshot after each refresh.

    A poll sees what changed lately, and posts that it was told are gone. What it cannot see (other posts that
    left the view, old likes taken back, commits that took longer than the recount window) the next reconcile
    sees; after that the catalog equals a fresh load. While PostgreSQL is away the last snapshot stays, and
    the age of its blocks grows.

    Args:
        store: The database.
        settings: Intervals and windows.
        metrics: What is recorded.
        publish: Makes a snapshot the one that requests see; awaited before the next refresh begins.
        preference: Which embeddings the models take.
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
        self._settings = settings
        self._metrics = metrics
        self._publish = publish
        self._catalog = Catalog.empty(settings.directory)
        self._read_at: datetime | None = None  # the database's time of the last reading; None before the load
        self._refreshed_at = float("-inf")  # time.monotonic()
        self._reconcile_at = float("-inf")  # time.monotonic()
        self._behind = asyncio.Event()
        self._facts = RecentFacts()
        self._unusable = NO_WIDTHS  # as the log says
        self._left_out: dict[tuple[str, str], int] = {}  # as the log says
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Starts refreshing.

        Raises:
            ConfigurationError: The directory for the embeddings cannot be made.
        """
        if self._settings.directory is not None:
            try:
                self._settings.directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigurationError(f"catalog.directory: {error.strerror}: {error.filename}") from error
        self._metrics.ages_from(
            lambda: time.monotonic() - self._refreshed_at,
            lambda: time.monotonic() - self._catalog.snapshot.blocks_read_at,
        )
        self._task = asyncio.create_task(self._run(), name="catalog-refresher")
        log_task_failure(self._task, "the catalog is no longer refreshed")
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stops at once, whatever state the database is in."""
        await stop(self._task)
        self._store.close()

    def correct(self, facts: Facts) -> None:
        """Remembers facts until they are in the catalog: a poll by itself does not see what is gone."""
        self._facts.add(facts, time.monotonic())

    def catch_up(self) -> None:
        """Refreshes at once, and once more to compare everything: facts may have gone unheard."""
        self._behind.set()

    async def _run(self) -> None:
        failures = 0
        while True:
            began = time.monotonic()
            try:
                await self.refresh()
            # OSError is the disk's; the store and the model's device have errors of their own.
            except (AnimoraError, OSError) as error:
                self._metrics.refreshes["error"].inc()
                if not failures:
                    log.warning("the catalog cannot be refreshed", error=str(error))
                delay = min(FIRST_DELAY * 2**failures, LONGEST_DELAY) * random.uniform(0.5, 1)
                failures = min(failures + 1, 10)
            else:
                if failures:
                    log.info("the catalog is refreshed again")
                self._metrics.refreshes["ok"].inc()
                failures = 0
                due = min(began + self._settings.poll_interval, self._reconcile_at)
                delay = max(0.0, due - time.monotonic())
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._behind.wait()

    async def refresh(self) -> None:
        """Brings the catalog up to date and publishes it.

        Raises:
            AnimoraError: The database did not answer, or the snapshot was not taken.
            OSError: The embeddings cannot be written.
        """
        began = time.monotonic()
        since, behind = self._read_at, self._behind.is_set()
        self._behind.clear()
        if behind:
            # After a poll, which is quick and brings all blocks.
            self._reconcile_at = began
        async with self._store.reading() as reading:
            refresh = Refresh(reading, self._catalog, self._settings, began, self._preference())
            if since is None or (began >= self._reconcile_at and not behind):
                # One that fails is not tried again at once: polls keep the blocks fresh meanwhile.
                self._reconcile_at = began + self._settings.reconcile_interval * random.uniform(0.9, 1.1)
                catalog = await refresh.reconcile()
            else:
                catalog = await refresh.poll(since, self._facts.since(float("-inf")).deleted_ids)
        # Even if publishing fails, rows that someone may have seen are not assigned again.
        self._catalog = catalog
        self._read_at = reading.now
        self._facts.forget(began)
        await self._publish(catalog.snapshot)
        self._refreshed_at = time.monotonic()
        self._record(self._refreshed_at - began)
        if since is None:
            log.info(
                "the catalog is loaded",
                posts=len(catalog.snapshot),
                seconds=round(self._refreshed_at - began, 3),
            )
        self._report_left_out(refresh.left_out)
        if refresh.unusable is not None:
            self._report_unusable(refresh.unusable)

    def _report_left_out(self, left_out: Mapping[tuple[str, str], int]) -> None:
        for (view, reason), rows in left_out.items():
            self._metrics.left_out[view, reason].set(rows)
            if rows and rows != self._left_out.get((view, reason)):
                log.warning("rows of a view are left out", view=view, reason=reason, rows=rows)
        self._left_out.update(left_out)

    def _report_unusable(self, unusable: Widths) -> None:
        """Records how many embeddings count as absent, and logs it when they become more."""
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
