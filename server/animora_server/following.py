"""Follows the database and the model store: the parts of the server that keep its data in step."""

from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from animora_artifact import VersionSource
from animora_server.background import BackgroundLoop
from animora_server.catalog import ChangeEvents
from animora_server.inference import ModelManager
from animora_server.models import ModelWatcher, VersionKeeper, VersionLoader
from animora_server.observability.health import HealthState
from animora_server.observability.metrics import Metrics, ModelMetrics
from animora_server.rollout.guard import RollbackGuard
from animora_server.scoring.arms import Arms
from animora_server.settings import Settings
from animora_server.store import BlockRefresher, CatalogSync, EventListener, PostgresStore


@asynccontextmanager
async def following_database(
    database: PostgresStore,
    refresher: CatalogSync,
    model_manager: ModelManager,
    settings: Settings,
    metrics: Metrics,
    health: HealthState,
) -> AsyncIterator[None]:
    """Loads the catalog and keeps it in step with the database: polls, notifications, blocks."""
    blocks = BlockRefresher(
        database.with_separate_connection(),
        settings.catalog,
        metrics.catalog,
        lambda: model_manager.block_age,
        model_manager.publish_blocks,
    )

    def correct(events: ChangeEvents) -> bool:
        model_manager.apply(events)
        if events.unblocked:
            blocks.read_soon()
        return refresher.add_events(events) and model_manager.accepts_events

    listener = EventListener(settings.database, metrics.catalog, correct, refresher.catch_up)
    watch_loops(metrics, health, listener.loop, *refresher.loops, blocks.loop)
    # Listen before loading, so that no notification is missed in between.
    async with listener, refresher, blocks:
        yield


class ModelFollower(AbstractAsyncContextManager["ModelFollower"], Protocol):
    """Follows something in a background loop from its entry on."""

    @property
    def loop(self) -> BackgroundLoop:
        """The loop."""
        ...


def model_followers(
    store: VersionSource,
    model_manager: ModelManager,
    guard: RollbackGuard,
    arms: Arms | None,
    settings: Settings,
    metrics: ModelMetrics,
) -> list[ModelFollower]:
    """What loads the versions that `ACTIVE`, experiments and `shadow` name, and what watches new ones."""
    poll_interval = settings.models.poll_interval
    watcher = ModelWatcher(store, model_manager, poll_interval, metrics)
    guard.on_breach, guard.arms = watcher.roll_back, arms
    followers: list[ModelFollower] = [watcher, guard]
    if versions := settings.kept_versions:
        loader = VersionLoader(store, poll_interval, metrics)

        def report_refused(refused: Collection[str]) -> None:
            if arms is not None:
                arms.refuse(refused)

        followers.append(VersionKeeper(versions, loader, model_manager, poll_interval, report_refused))
    return followers


def watch_loops(metrics: Metrics, health: HealthState, *loops: BackgroundLoop) -> None:
    """Adds background loops to metrics and liveness."""
    metrics.background.watch(*loops)
    health.liveness.watch(*loops)
