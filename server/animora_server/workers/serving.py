"""What a worker does: the whole server but for its HTTP port, which is the parent's."""

import asyncio

import structlog

from animora_server.app import Engine, engine
from animora_server.errors import ConfigurationError
from animora_server.program import stop_signal
from animora_server.workers.parent import Parent

log = structlog.get_logger(__name__)


async def serve(parent: Parent) -> int:
    """Serves until SIGTERM, then drains. Returns the process's exit status."""
    stopping = stop_signal()
    try:
        async with engine(parent.settings) as made, made.following:
            parent.tell_of(made.registry, made.health.dead)
            await _serve(made, parent, stopping)
            parent.say_goodbye()
    except ConfigurationError as error:
        parent.refuse(str(error))
        return 2
    return made.health.exit_status


async def _serve(made: Engine, parent: Parent, stopping: asyncio.Event) -> None:
    """Takes calls from when they can be answered: on a shared port, others answer them until then."""
    ended = asyncio.create_task(made.health.until_end(stopping))
    ready = asyncio.create_task(made.health.became_ready.wait())
    await asyncio.wait((ended, ready), return_when=asyncio.FIRST_COMPLETED)
    ready.cancel()
    if ended.done():
        return
    async with made.grpc as grpc:
        parent.tell_whether(made.health.unready)
        log.info("listening", grpc_port=grpc.port, device=made.device)
        log.info("draining", reason=await ended)
        await made.health.drain(grpc)
