"""Follows the database and the model store: the parts of the server that keep its data in step."""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Self

from animora_artifact import VersionSource
from animora_server.admin import AdminPort
from animora_server.background import BackgroundLoop, LoopOwner
from animora_server.catalog import ChangeEvents
from animora_server.inference.model_manager import ModelManager
from animora_server.models import ModelWatcher, VersionKeeper, VersionLoader
from animora_server.observability.health import HealthState
from animora_server.observability.metrics import Metrics
from animora_server.rollout.guard import RollbackGuard
from animora_server.rollout.shadow import ShadowScorer
from animora_server.scoring.arms import Arms
from animora_server.service.authorization import Authorizer
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


class ModelFollowers(AsyncExitStack):
    """What follows the model store from its entry on.

    Attributes:
        loops: The background loops.
        admin: The admin port, which listens from the entry on; None if it is off.
    """

    def __init__(self, parts: Sequence[LoopOwner] = (), admin: AdminPort | None = None) -> None:
        super().__init__()
        self._parts = parts
        self.admin = admin
        self.loops = [part.loop for part in parts] + list(() if admin is None else admin.server.loops)

    async def __aenter__(self) -> Self:
        """Starts the loops, and then the admin port."""
        for part in self._parts:
            await self.enter_async_context(part)
        if self.admin is not None:
            await self.enter_async_context(self.admin)
        return self


def model_followers(  # noqa: PLR0913, PLR0917  # parts of the composition root
    store: VersionSource | None,
    model_manager: ModelManager,
    guard: RollbackGuard,
    shadow: ShadowScorer,
    arms: Arms | None,
    settings: Settings,
    metrics: Metrics,
    authorizer: Authorizer | None,
) -> ModelFollowers:
    """What loads the versions that `ACTIVE`, experiments and `shadow` name, watches new ones, and lists all.

    Raises:
        ConfigurationError: A key of the admin port cannot be used.
    """
    if store is None:
        return ModelFollowers()
    poll_interval = settings.models.poll_interval
    watcher = ModelWatcher(store, model_manager, poll_interval, metrics.models)
    guard.on_breach, guard.arms = watcher.roll_back, arms
    parts: list[LoopOwner] = [shadow, watcher, guard]
    if versions := settings.kept_versions:
        loader = VersionLoader(store, poll_interval, metrics.models)

        def report_refused(refused: Collection[str]) -> None:
            if arms is not None:
                arms.refuse(refused)

        parts.append(VersionKeeper(versions, loader, model_manager, poll_interval, report_refused))
    if not settings.admin.enabled:
        return ModelFollowers(parts)
    return ModelFollowers(parts, AdminPort(settings, watcher, model_manager, metrics, authorizer))


def watch_loops(metrics: Metrics, health: HealthState, *loops: BackgroundLoop) -> None:
    """Adds background loops to metrics and liveness."""
    metrics.background.watch(*loops)
    health.liveness.watch(*loops)
