"""Calls before a handler is called: taken from gRPC while there is room, and counted where gRPC ends them.

gRPC's core matches an arrived call with a request of the application for one. Calls that find none wait in
the core, up to `grpc.server.max_pending_requests`; further ones are shed there, for a fraction of what a call
costs that is taken and refused in Python. grpc.aio always requests the next call, whatever the load. The
Intake requests as many as there is room for, several at once, so that a burst need not wait.

gRPC looks up the handler of a call when its headers have arrived, before its message is read. If the message
is then too large or compressed, the metadata too large, or the caller gone, gRPC ends the call without
calling the handler. Calls that gRPC sheds earlier, because too many wait, are visible to gRPC core alone:
channelz counts all calls that arrived.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import grpc

from animora_server.observability.instruments import CountCell
from animora_server.observability.metrics import ArrivalMetrics
from animora_server.service.authorization import Authorizer
from animora_server.service.calls import TokenBehavior

cygrpc: Any = import_module("grpc._cython.cygrpc")  # untyped; grpcio-channelz imports it as well

MAX_REQUESTED = 512  # calls that are requested at once; a burst of as many is taken without waiting
UPDATE_INTERVAL = 0.02  # seconds; while there is no room, which may grow without a call that ends


class Intake:
    """Requests calls while there is room, and hands them to grpc.aio in their order.

    Args:
        room: Returns how many more calls may be taken now; it may also grow as time passes.
    """

    def __init__(self, room: Callable[[], int]) -> None:
        self._room = room
        self._takers: list[asyncio.Task[None]] = []
        self._idle: deque[asyncio.Future[None]] = deque()  # takers that wait for room
        self._requested = 0
        self._arrived: deque[Any] = deque()  # calls, and errors of requests
        self._arrival: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    async def next_call(self, request_call: Callable[[], Awaitable[Any]]) -> Any:
        """The next call.

        Args:
            request_call: Requests one call of gRPC's core, and returns it when it has arrived.

        Raises:
            Exception: What `request_call` raises, as when the server shuts down.
        """
        loop = asyncio.get_running_loop()
        if not self._takers:
            self._takers = [loop.create_task(self._take(request_call)) for _ in range(MAX_REQUESTED)]
        while not self._arrived:
            self._arrival = loop.create_future()
            await self._arrival
        arrived = self._arrived.popleft()
        if isinstance(arrived, BaseException):
            raise arrived
        return arrived

    async def wait_open(self) -> None:
        """Waits until the first calls are requested; to be called once gRPC has started.

        Until then gRPC would shed part of a burst.
        """
        while not self._requested:  # noqa: ASYNC110  # a few turns of the event loop
            await asyncio.sleep(0)

    def update(self) -> None:
        """Requests more calls if there is room; to be called when a call has ended."""
        idle = self._idle
        if not idle:  # the usual case: there is more room than requests
            return
        for _ in range(min(self._free(), len(idle))):
            idle.popleft().set_result(None)
        if idle and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(UPDATE_INTERVAL, self._update_again)

    def close(self) -> None:
        """Requests calls whatever the room, so that gRPC can fail the requests when it shuts down."""
        self._is_closed = True
        self.update()

    async def wait_closed(self) -> None:
        """Waits until gRPC has failed all requests; to be called after `close` and gRPC's shutdown."""
        await asyncio.gather(*self._takers)

    def _update_again(self) -> None:
        self._timer = None
        self.update()

    def _free(self) -> int:
        if self._is_closed:
            return MAX_REQUESTED
        return self._room() - self._requested - len(self._arrived)

    async def _take(self, request_call: Callable[[], Awaitable[Any]]) -> None:
        """Requests one call after another."""
        loop = asyncio.get_running_loop()
        while True:
            if self._free() <= 0:
                room: asyncio.Future[None] = loop.create_future()
                self._idle.append(room)
                if self._timer is None:
                    self.update()
                await room
                continue
            self._requested += 1
            try:
                arrived = await request_call()
            except Exception as error:  # grpc.aio, which receives it, decides
                arrived = error
            self._requested -= 1
            self._arrived.append(arrived)
            if self._arrival is not None and not self._arrival.done():
                self._arrival.set_result(None)
            if self._is_closed:
                return


def limited_server(options: Sequence[tuple[str, int]], intake: Intake) -> grpc.aio.Server:
    """A grpc.aio server whose calls are taken by an Intake."""

    class TakingServer(cygrpc.AioServer):  # type: ignore[misc]  # untyped
        async def _request_call(self) -> Any:
            return await intake.next_call(super()._request_call)

    original = cygrpc.AioServer
    cygrpc.AioServer = TakingServer  # grpc.aio has no parameter for it
    try:
        return grpc.aio.server(options=options)
    finally:
        cygrpc.AioServer = original


class MethodHandlers(grpc.GenericRpcHandler):
    """The handlers of a service; counts the calls that end before their handler is called.

    It must be registered before all other handlers, so that it sees the calls of all services.

    Args:
        service: The name of the service.
        handlers: The handlers, by method.
        metrics: Counts the calls.
        record_wait: Takes the seconds that a call waited for the event that its message has arrived.
    """

    def __init__(
        self,
        service: str,
        handlers: Mapping[str, Any],
        metrics: ArrivalMetrics,
        record_wait: Callable[[float], object],
    ) -> None:
        self._handlers = {f"/{service}/{method}": handler for method, handler in handlers.items()}
        self._metrics = metrics
        self._record_wait = record_wait

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Returns the handler of a call; None for a method of another service."""
        self._metrics.taken.inc()
        handler = self._handlers.get(handler_call_details.method)
        return None if handler is None else self._arrived(handler.unary_unary)

    def _arrived(self, unary_unary: Any) -> "_ArrivedCall":
        return _ArrivedCall(unary_unary, self._metrics.unreceived, self._record_wait)


class AuthorizedMethodHandlers(MethodHandlers):
    """The handlers of a service whose callers need a token or certificate.

    Args:
        service: The name of the service.
        handlers: What handles calls with a valid token, and the handler of other calls, by method.
        authorizer: Checks the token.
        metrics: Counts the calls.
        record_wait: As of MethodHandlers.
    """

    def __init__(
        self,
        service: str,
        handlers: Mapping[str, tuple[TokenBehavior, Any]],
        authorizer: Authorizer,
        metrics: ArrivalMetrics,
        record_wait: Callable[[float], object],
    ) -> None:
        super().__init__(service, handlers, metrics, record_wait)
        self._authorizer = authorizer

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Returns the handler of a call; None for a method of another service."""
        self._metrics.taken.inc()
        handlers = self._handlers.get(handler_call_details.method)
        if handlers is None:
            return None
        with_token, without_token = handlers
        access = self._authorizer.admitting(handler_call_details.invocation_metadata)
        if access is None:
            return without_token
        return self._arrived(partial(with_token, access))


class UnknownMethodCounter(grpc.GenericRpcHandler):
    """Counts calls of unknown methods. It must be registered after all other handlers."""

    def __init__(self, metrics: ArrivalMetrics) -> None:
        self._metrics = metrics

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> None:
        """Returns no handler, so gRPC answers UNIMPLEMENTED."""
        self._metrics.unknown.inc()


class _ArrivedCall:
    """The handler of one call. gRPC drops it when the call ends, whether or not it called the handler."""

    __slots__ = ("_arrived_at", "_record_wait", "_unreceived", "unary_unary")

    request_streaming = response_streaming = False
    unary_stream = stream_unary = stream_stream = None
    response_serializer = None

    def __init__(
        self, unary_unary: Any, unreceived: CountCell, record_wait: Callable[[float], object]
    ) -> None:
        self.unary_unary = unary_unary
        self._unreceived: CountCell | None = unreceived
        self._record_wait = record_wait
        self._arrived_at = time.perf_counter()

    def request_deserializer(self, data: bytes) -> bytes:
        """Returns the message unchanged, and records that it has arrived."""
        self._unreceived = None
        self._record_wait(time.perf_counter() - self._arrived_at)
        return data

    def __del__(self) -> None:
        if self._unreceived is not None:
            self._unreceived.inc()


class ArrivedCalls:
    """Counts the calls that arrived at a server, including those that gRPC shed. Thread-safe.

    Channelz drops a server that has stopped; the last count stays.

    Args:
        server_id: The id of the server in channelz.
    """

    def __init__(self, server_id: int) -> None:
        self._server_id = server_id
        self._last = 0

    def read(self) -> int:
        """The current count; after the server has stopped, the count of the last call of this method."""
        try:
            found = json.loads(cygrpc.channelz_get_server(self._server_id))
        except ValueError:  # the server has stopped
            return self._last
        self._last = int(found["server"].get("data", {}).get("callsStarted", 0))
        return self._last


def newest_server_id() -> int:
    """The channelz id of the newest server of this process."""
    found, start = 0, 0
    while True:
        page = json.loads(cygrpc.channelz_get_servers(start))
        ids = [int(server["ref"]["serverId"]) for server in page.get("server", ())]
        found = max([found, *ids])
        if page.get("end", True) or not ids:
            return found
        start = found + 1
