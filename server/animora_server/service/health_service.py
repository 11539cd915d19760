"""The `grpc.health.v1` service: checks, and watches that end with the server."""

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health_pb2

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]

Status = int  # of health_pb2.HealthCheckResponse.ServingStatus


class HealthService:
    """Says what each service's status is.

    A watcher that reads nothing holds up itself alone; grpcio-health-checking's own service holds a lock
    while it writes, and no status can change until the watcher reads. And watches end when they are told
    to: a watcher behind a proxy would hold up a stop for the whole grace.
    """

    def __init__(self) -> None:
        self._statuses: dict[str, Status] = {}
        self._changed = asyncio.Event()  # another one after each change
        self._draining = False
        self._ending = asyncio.Event()

    def set(self, service: str, status: Status) -> None:
        """Says a status from now on, unless the service drains."""
        if not self._draining:
            self._statuses[service] = status
            self._tell()

    def drain(self) -> None:
        """Says NOT_SERVING of everything, for good."""
        self._draining = True
        self._statuses = dict.fromkeys(self._statuses, health_pb2.HealthCheckResponse.NOT_SERVING)
        self._tell()

    def end_watches(self) -> None:
        """Ends all watches, and any that comes later."""
        self._ending.set()

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: "Context"
    ) -> health_pb2.HealthCheckResponse:
        """The status of a service; NOT_FOUND where there is none of the name."""
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: "Context") -> None:
        """Sends the status of a service now and whenever it changes, until the caller or the server goes."""
        watching = asyncio.ensure_future(self._send_changes(request.service, context))
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

    async def _send_changes(self, service: str, context: "Context") -> None:
        sent: Status | None = None
        while True:
            changed = self._changed
            status = self._statuses.get(service, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
            if status != sent:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                sent = status
            await changed.wait()

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
