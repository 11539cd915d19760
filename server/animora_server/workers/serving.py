"""What a worker does: the whole server but for its HTTP port, which is the parent's."""

import asyncio

import structlog

from animora_server.app import Engine, engine
from animora_server.background import first_of
from animora_server.errors import ConfigurationError
from animora_server.program import stop_signal
from animora_server.workers.parent_channel import ParentChannel

log = structlog.get_logger(__name__)


async def serve(parent: ParentChannel) -> int:
    """Serves until the parent or a signal says so, then drains. Returns the process's exit status."""
    leaving = stop_signal()
    draining = parent.told_to_drain()
    try:
        async with engine(parent.settings, parent.device_socket) as made, made.following:
            parent.report(made.registry, made.health.dead)
            await _serve(made, parent, draining, leaving)
            parent.say_goodbye()
    except ConfigurationError as error:
        parent.refuse(str(error))
        return 2
    return made.health.exit_status


async def _serve(
    made: Engine, parent: ParentChannel, draining: asyncio.Event, leaving: asyncio.Event
) -> None:
    """Takes calls from when they can be answered: on a shared port, others answer them until then."""
    ends = {
        "the parent": draining,
        "a signal": leaving,
        "the device failed": made.health.device_failed,
    }
    if await first_of(ends | {"ready": made.health.became_ready}) in ends:
        return
    async with made.grpc as grpc:
        parent.report_state(made.health.unready)
        log.info("listening", grpc_port=grpc.port, device=str(made.device))
        log.info("draining", reason=await first_of(ends))
        if draining.is_set():
            await made.health.drain(grpc)
        else:
            await made.health.leave(grpc)
