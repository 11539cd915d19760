"""The server as it runs in a worker: everything but the HTTP port, which the supervisor serves."""

import asyncio

import structlog

from animora_server.app import Engine, engine
from animora_server.background import first_of
from animora_server.errors import ConfigurationError
from animora_server.program import exempt_from_garbage_collection, stop_signal
from animora_server.workers.parent_channel import ParentChannel

log = structlog.get_logger(__name__)


async def serve(parent: ParentChannel) -> int:
    """Serves until the supervisor or a signal ends it, then drains. Returns the exit status."""
    signalled = stop_signal()
    draining = parent.drain_event()
    try:
        async with (
            engine(parent.settings, parent.device_socket, exempt_from_garbage_collection) as started,
            started.following,
        ):
            parent.set_metrics(started.registry, started.health.dead)
            await _serve(started, parent, draining, signalled)
            parent.send_final_metrics()
    except ConfigurationError as error:
        parent.send_config_error(str(error))
        return 2
    return started.health.exit_status


async def _serve(
    started: Engine, parent: ParentChannel, draining: asyncio.Event, signalled: asyncio.Event
) -> None:
    """Listens once health is SERVING; on the shared port, other workers take the calls until then."""
    ends = {
        "the parent": draining,
        "a signal": signalled,
        "the device failed": started.health.device_failed,
    }
    if await first_of(ends | {"ready": started.health.became_ready}) in ends:
        return
    async with started.grpc as grpc:
        parent.set_readiness(started.health.unready_to_probes)
        log.info("listening", grpc_port=grpc.port, device=str(started.device))
        log.info("draining", reason=await first_of(ends))
        if draining.is_set():
            await started.health.drain(grpc)
        else:
            await started.health.leave(grpc)
