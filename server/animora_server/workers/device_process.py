"""The device process: loads, encodes and scores for all workers."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from animora_server.background import BackgroundLoop, Liveness, first_of
from animora_server.batching import Batcher, CostModel
from animora_server.errors import ConfigurationError
from animora_server.inference.device import Device
from animora_server.inference.preflight import Preflight
from animora_server.inference.requests import batch_limits
from animora_server.models import open_models
from animora_server.observability.metrics import BackgroundMetrics, ScorerMetrics, process_registry
from animora_server.program import exempt_from_garbage_collection, stop_signal
from animora_server.shared_device.device_server import serving_device
from animora_server.shared_device.shared_models import DeviceBatcher, SharedModels
from animora_server.workers.parent_channel import ParentChannel

log = structlog.get_logger(__name__)

CHECK_INTERVAL = 0.1  # seconds between two checks of the device


async def share(parent: ParentChannel) -> int:
    """Runs the device process until the parent or a signal ends it. Returns the exit status.

    0 after an orderly end, 1 after a failure of the device, 2 after a configuration error.
    """
    failed = asyncio.Event()
    ends = {"the parent": parent.drain_event(), "a signal": stop_signal(), "the device failed": failed}
    try:
        async with _serving(parent, failed):
            exempt_from_garbage_collection()
            parent.set_readiness(lambda: None)
            log.info("leaving", reason=await first_of(ends))
            parent.send_final_metrics()
    except ConfigurationError as error:
        parent.send_config_error(str(error))
        return 2
    return 1 if failed.is_set() else 0


@asynccontextmanager
async def _serving(parent: ParentChannel, failed: asyncio.Event) -> AsyncIterator[None]:
    """Serves the device on the socket; sets `failed` when the device fails or hangs."""
    settings, loop = parent.settings, asyncio.get_running_loop()
    assert parent.device_socket is not None  # the parent creates it for this process
    registry = process_registry()
    metrics, cost = ScorerMetrics(registry), CostModel()
    store = open_models(settings.models)
    async with Device(
        settings.scorer,
        on_fault=lambda: loop.call_soon_threadsafe(failed.set),
        preflight=Preflight() if settings.models.preflight else None,
    ) as device:
        batcher: DeviceBatcher = Batcher(
            device.score, batch_limits(settings.scorer), cost, metrics, device.score_inline
        )
        metrics.queue_rows.set_function(lambda: batcher.queued_rows)
        models = SharedModels(store, device, batcher, cost, settings.grpc.workers)
        async with (
            batcher,
            watching(batcher, settings.scorer.hang_timeout, failed) as watch,
            serving_device(parent.device_socket, f"{device}, shared", models),
        ):
            background, liveness = BackgroundMetrics(registry), Liveness(watch)
            liveness.watch(batcher.runner)
            background.watch(watch)
            background.count(batcher.runner)
            parent.set_metrics(registry, liveness.dead)
            log.info("sharing", device=str(device), pid=os.getpid())
            yield


@asynccontextmanager
async def watching(
    batcher: DeviceBatcher, hang_timeout: float, failed: asyncio.Event
) -> AsyncIterator[BackgroundLoop]:
    """Sets an event when a batch hangs.

    Args:
        batcher: The device's queue.
        hang_timeout: Seconds after which a running batch counts as hanging.
        failed: Set when a batch hangs.

    Yields:
        The loop that checks.
    """

    async def check() -> float:
        now, since = asyncio.get_running_loop().time(), batcher.running_since
        if since is not None and now - since > hang_timeout and not failed.is_set():
            log.error("the device hangs", seconds=now - since)
            failed.set()
        return CHECK_INTERVAL

    loop = BackgroundLoop("device-watch", check)
    loop.start()
    try:
        yield loop
    finally:
        await loop.stop()
