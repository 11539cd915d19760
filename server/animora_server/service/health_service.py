"""The `grpc.health.v1` service: checks, and watches that end with the server."""

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health_aio

if TYPE_CHECKING:
    import grpc

    Context = grpc.aio.ServicerContext[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]


class HealthService(health_aio.HealthServicer):  # type: ignore[misc]  # it ships no types
    """Ends its watches when told: a watcher behind a proxy would hold up a stop for the whole grace."""

    def __init__(self) -> None:
        super().__init__()
        self._ending = asyncio.Event()

    def end_watches(self) -> None:
        """Ends all watches, and any that comes later."""
        self._ending.set()

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: "Context") -> None:
        """Sends the status of a service now and whenever it changes, until the caller or the server goes."""
        watching = asyncio.ensure_future(super().Watch(request, context))
        ending = asyncio.ensure_future(self._ending.wait())
        try:
            await asyncio.wait((watching, ending), return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                watching.result()
        finally:
            ending.cancel()
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
