"""The composition root: constructs all parts, starts them in order, and stops them in reverse."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import structlog
from prometheus_client import CollectorRegistry

from animora_server.admin import AdminPort
from animora_server.auth import warn_about_open_ports, watch_access_list
from animora_server.background import first_of
from animora_server.batching import Batcher, CostModel
from animora_server.cache import GenerationWatch, RedisCache, RedisScores, RedisTimelineStore, rank_key
from animora_server.following import following_database, model_followers, watch_loops
from animora_server.inference.catalog_encoder import CatalogEncoder
from animora_server.inference.model_manager import ModelManager
from animora_server.inference.placeholder_models import NoModel
from animora_server.inference.preflight import Preflight
from animora_server.inference.protocols import InferenceDevice, Queue
from animora_server.inference.requests import InferenceRequest, batch_limits
from animora_server.models import open_models
from animora_server.observability.health import HealthState
from animora_server.observability.metrics import ArmMetrics, Metrics, process_registry
from animora_server.observability.probes import Probes, ScrapeAuthorizer
from animora_server.open_files import fit_connections
from animora_server.program import exempt_from_garbage_collection, stop_signal
from animora_server.ranker import CandidateRanker
from animora_server.ranker.score_provider import CacheAccess
from animora_server.rollout.guard import RollbackGuard
from animora_server.rollout.shadow import ShadowScorer
from animora_server.scoring.arms import Arms
from animora_server.scoring.heuristic import Heuristic
from animora_server.scoring.serving_state import ServingStateHolder
from animora_server.service import METHODS, SERVICE_NAME, GrpcServer, RankingService, TimelineService
from animora_server.service.admission import AdmissionController
from animora_server.service.arm_outcomes import ArmOutcomes
from animora_server.service.authorization import Authorizer
from animora_server.service.calls import CallHandler
from animora_server.settings import CatalogSettings, Settings
from animora_server.shared_device.remote_device import QueueObserver, RemoteDevice, SharedQueue
from animora_server.store import CatalogSync, PostgresStore
from animora_server.timeline import (
    LocalTimelineStore,
    PostsOfGeneration,
    TieredTimelineStore,
    TimelineProvider,
    Timelines,
    TimelineStore,
    feed_policies,
    token_signer,
)
from animora_server.types import FloatArray

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Engine:
    """A constructed server that does not listen and has no data yet.

    Attributes:
        grpc: The gRPC server; entering it, once health is SERVING, starts to listen.
        following: Entering it loads the database and the model store, and starts to follow them.
        health: Readiness and liveness.
        registry: The metrics.
        device: The device, local or shared.
        scrapes: Checks callers of /metrics; None if they need no token.
        admin: The admin port, or None; it listens while the model store is followed.
    """

    grpc: GrpcServer
    following: AbstractAsyncContextManager[None]
    health: HealthState
    registry: CollectorRegistry
    device: InferenceDevice
    scrapes: ScrapeAuthorizer | None
    admin: AdminPort | None


@dataclass(frozen=True, slots=True)
class Application:
    """A running server, which does not listen for calls until `listen`.

    Attributes:
        grpc: The gRPC server.
        probes: The HTTP port.
        health: Readiness and liveness.
        device: The device.
        admin: The admin port, or None.
        closing: Closes the gRPC port.
    """

    grpc: GrpcServer
    probes: Probes
    health: HealthState
    device: InferenceDevice
    admin: AdminPort | None
    closing: AsyncExitStack

    async def listen(self) -> None:
        """Waits until health is SERVING, then opens the gRPC port and logs it.

        Before, connections are refused, so that clients and proxies turn to another server.

        Raises:
            ConfigurationError: The port is taken.
        """
        await self.health.became_ready.wait()
        await self.closing.enter_async_context(self.grpc)
        ports = {"grpc_port": self.grpc.port, "http_port": self.probes.port}
        log.info("listening", **ports, device=str(self.device))

    async def drain(self) -> None:
        """Stops accepting calls, and finishes calls in flight."""
        await self.health.drain(self.grpc)


@asynccontextmanager
async def engine(
    settings: Settings,
    device_socket: str | None = None,
    before_serving: Callable[[], object] = lambda: None,
) -> AsyncIterator[Engine]:
    """Constructs all parts, and stops them in reverse order.

    Args:
        settings: All options.
        device_socket: The socket of the shared device's process; None for a device of this process.
        before_serving: Called once, before health is SERVING for the first time.

    Raises:
        ConfigurationError: An option cannot be satisfied, for example the model store.
    """
    _warn_about_block_age(settings.catalog)
    registry = process_registry()
    metrics = Metrics(registry, SERVICE_NAME, METHODS, list(settings.experiments.arms))
    loop = asyncio.get_running_loop()
    store = open_models(settings.models)
    async with AsyncExitStack() as stack:
        shared = None
        if device_socket is None:
            from animora_server.inference.device import Device as OwnDevice  # noqa: PLC0415  # imports PyTorch: 100 MB

            device: InferenceDevice = await stack.enter_async_context(
                OwnDevice(
                    settings.scorer,
                    on_fault=lambda: loop.call_soon_threadsafe(health.device_failed.set),
                    preflight=Preflight() if settings.models.preflight else None,
                )
            )
        else:
            device = shared = await stack.enter_async_context(
                RemoteDevice(device_socket, on_loss=lambda: model_manager.on_device_lost())  # noqa: PLW0108  # defined below
            )
        cost = CostModel()
        batcher: Batcher[InferenceRequest, FloatArray] = await stack.enter_async_context(
            Batcher(
                device.score,
                batch_limits(settings.scorer),
                cost,
                metrics.scorer if shared is None else QueueObserver(metrics.scorer),
                device.score_inline,
            )
        )
        queue: Queue = batcher if shared is None else SharedQueue(batcher, device.score)
        encoder = CatalogEncoder(device, queue, cost, settings.scorer.max_batch_rows)
        guard = RollbackGuard(settings.rollback, on_end=lambda: model_manager.watch_again())  # noqa: PLW0108  # defined below
        shadow = ShadowScorer(settings.shadow, metrics.shadow, is_idle=lambda: not batcher.queued_rows)
        states = ServingStateHolder(
            settings.catalog.max_block_age, watch=lambda state: shadow.watch(guard.watch(state))
        )
        model_manager = ModelManager(
            states,
            device,
            encoder,
            settings.models.resident,
            NoModel() if store is None else None,
            reconcile=lambda: refresher.catch_up(),  # noqa: PLW0108  # defined below
        )
        health = HealthState(model_manager, batcher, settings, shared, before_serving)
        _bind_gauges(metrics, batcher, model_manager, guard, health)
        watch_loops(metrics, health, health.supervision, *(() if shared is None else (shared.loop,)))
        heuristic = Heuristic.of(settings.ranking)
        scores, timeline_store, posts_of_generation = await _stores(stack, settings, metrics, health)
        admission = AdmissionController(settings.grpc.max_calls_in_flight, settings.grpc.max_rows_in_flight)
        metrics.calls.concurrency_limit.set_function(lambda: admission.limit.calls)
        arms, arm_outcomes = _arms(settings, metrics.arms)
        ranker = CandidateRanker(states, scores, heuristic, metrics.stages, arms)
        provider = TimelineProvider(timeline_store, settings.timeline, admission, metrics.timelines)
        stack.push_async_callback(provider.aclose)
        policies = feed_policies(settings, heuristic, posts_of_generation)
        timelines = Timelines(states, provider, token_signer(settings.timeline), policies, arms)
        ranking_service = RankingService(ranker, admission, settings.ranking, metrics.ranks, arm_outcomes)
        timeline_service = TimelineService(
            timelines, admission, settings.timeline, metrics.timelines, metrics.ranks, arm_outcomes
        )
        authorizer, scrapes = await _authorizers(stack, settings, metrics, health)
        server = GrpcServer(
            await asyncio.to_thread(fit_connections, settings),
            CallHandler(admission, metrics.calls, settings.grpc.default_timeout),
            {**ranking_service.methods, **timeline_service.methods},
            authorizer,
        )
        watch_loops(metrics, health, *server.loops)
        database = PostgresStore(settings.database)
        refresher = CatalogSync(
            database,
            settings.catalog,
            metrics.catalog,
            model_manager.publish,
            preference=lambda: model_manager.width_preference,
        )

        followers = model_followers(store, model_manager, guard, shadow, arms, settings, metrics, authorizer)
        watch_loops(metrics, health, *followers.loops)

        @asynccontextmanager
        async def following() -> AsyncIterator[None]:
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(
                    following_database(database, refresher, model_manager, settings, metrics, health)
                )
                await stack.enter_async_context(followers)
                await stack.enter_async_context(health.supervising(server))
                yield

        yield Engine(server, following(), health, registry, device, scrapes, followers.admin)


@asynccontextmanager
async def running(
    settings: Settings, before_serving: Callable[[], object] = lambda: None
) -> AsyncIterator[Application]:
    """Starts the server, all but the gRPC port, and stops it in reverse order.

    Args:
        settings: All options.
        before_serving: Called once, before health is SERVING for the first time.

    Raises:
        ConfigurationError: A port is taken, or an option cannot be satisfied.
    """
    async with (
        engine(settings, before_serving=before_serving) as started,
        Probes(
            settings.http,
            started.registry,
            live=started.health.dead,
            ready=started.health.unready_to_probes,
            authorizer=started.scrapes,
        ) as probes,
    ):
        await started.grpc.check_port()
        async with started.following, AsyncExitStack() as closing:
            yield Application(started.grpc, probes, started.health, started.device, started.admin, closing)


async def serve(settings: Settings) -> int:
    """Serves until a signal or a device fault, then drains. Returns the exit status."""
    stopping = stop_signal()
    warn_about_open_ports(settings)
    async with running(settings, before_serving=exempt_from_garbage_collection) as application:
        ends = {"a signal": stopping, "the device failed": application.health.device_failed}
        if await first_of(ends | {"ready": application.health.became_ready}) not in ends:
            await application.listen()
            log.info("draining", reason=await first_of(ends))
            await application.drain()
    return application.health.exit_status


def _bind_gauges(
    metrics: Metrics,
    batcher: Batcher[InferenceRequest, FloatArray],
    model_manager: ModelManager,
    guard: RollbackGuard,
    health: HealthState,
) -> None:
    """Binds gauges to the objects whose state they show."""
    metrics.scorer.queue_rows.set_function(lambda: batcher.queued_rows)
    metrics.models.resident.set_function(lambda: model_manager.versions)
    metrics.models.compiled.set_function(lambda: model_manager.compiled)
    metrics.models.slowdown.set_function(lambda: guard.slowdown)
    metrics.models.score_shift.set_function(lambda: guard.score_shift)
    metrics.serving.set_function(lambda: health.unready() is None)
    metrics.background.count(batcher.runner)
    health.liveness.watch(batcher.runner)


async def _authorizers(
    stack: AsyncExitStack, settings: Settings, metrics: Metrics, health: HealthState
) -> tuple[Authorizer | None, ScrapeAuthorizer | None]:
    """Creates the authorizers of the gRPC port and of /metrics; None if callers need no credentials."""
    access = watch_access_list(settings.auth)
    if access is None:
        return None, None
    watch_loops(metrics, health, access.loop)
    await stack.enter_async_context(access)
    return Authorizer(access, metrics.auth), ScrapeAuthorizer(access, metrics.auth)


async def _stores(
    stack: AsyncExitStack, settings: Settings, metrics: Metrics, health: HealthState
) -> tuple[CacheAccess | None, TimelineStore, PostsOfGeneration]:
    """Creates the score cache, the timeline store, and the look-up of a generation's posts, all in Redis.

    Without Redis there is no score cache, timelines are stored in this process, and none are precomputed.
    """
    local = LocalTimelineStore(settings.timeline.stale_ttl + settings.timeline.token_ttl)
    if not settings.cache.url.get_secret_value():
        return None, local, lambda: None
    redis = await stack.enter_async_context(RedisCache(settings.cache, metrics.cache))
    generations = await stack.enter_async_context(
        GenerationWatch(redis, settings.cache.generation_poll_interval, metrics.cache)
    )
    watch_loops(metrics, health, redis.recovery, generations.loop)
    scores = CacheAccess(RedisScores(redis, settings.cache.ttl, metrics.cache), rank_key)
    timelines = RedisTimelineStore(redis, generations, settings.timeline, metrics.cache)
    tiered = TieredTimelineStore(timelines, local)
    stack.push_async_callback(tiered.aclose)
    return scores, tiered, lambda: generations.posts


def _warn_about_block_age(settings: CatalogSettings) -> None:
    if settings.max_block_age <= settings.poll_interval:
        log.warning(
            "catalog.max_block_age is not above catalog.poll_interval: between polls calls get UNAVAILABLE"
        )


def _arms(settings: Settings, metrics: ArmMetrics) -> tuple[Arms, ArmOutcomes] | tuple[None, None]:
    """The arms of the experiments, and what records their answers; None without experiments."""
    if not settings.experiments.arms:
        return None, None
    arms = Arms(settings.experiments, metrics)
    metrics.enabled_from(lambda name: name not in arms.disabled)
    return arms, ArmOutcomes(arms, metrics)
