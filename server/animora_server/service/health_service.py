"""The `grpc.health.v1` service: checks, and watches that end when the server drains."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health_pb2

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]

Status = int  # of health_pb2.HealthCheckResponse.ServingStatus


class HealthService:
    """Serves the status of each service name.

    It replaces the service of grpcio-health-checking for two reasons. That one holds a lock while it writes,
    so a watcher that does not read blocks every change of status. And its watches do not end with the server,
    so a watcher behind a proxy delays shutdown by the whole grace period.

    Args:
        taken: Called for each call.

    Args:
        taken: Called for each call.
    """

    def __init__(self, taken: Callable[[], object]) -> None:
        self._taken = taken
        self._statuses: dict[str, Status] = {}
        self._changed = asyncio.Event()  # replaced at each change
        self._draining = False
        self._ending = asyncio.Event()

    def set(self, service: str, status: Status) -> None:
        """Sets the status of a service; ignored while draining."""
        if not self._draining:
            self._statuses[service] = status
            self._notify()

    def drain(self) -> None:
        """Sets every status to NOT_SERVING for good."""
        self._draining = True
        self._statuses = dict.fromkeys(self._statuses, health_pb2.HealthCheckResponse.NOT_SERVING)
        self._notify()

    def end_watches(self) -> None:
        """Ends all watches, and later ones as they start."""
        self._ending.set()

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: "Context"
    ) -> health_pb2.HealthCheckResponse:
        """Returns the status of a service; NOT_FOUND for an unknown name."""
        self._taken()
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: "Context") -> None:
        """Sends the status of a service at once and at each change, until the caller or the server ends."""
        self._taken()
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

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
