"""Takes calls from gRPC only while there is room for them, so that gRPC sheds what cannot be served in time.

gRPC's core matches an arrived call with a request of the application for one. Calls that find none wait in
the core, up to `grpc.server.max_pending_requests`; further ones are shed there, for a tenth of what a call
costs that is taken and refused in Python. grpc.aio always requests the next call, whatever the load. The
server of this module requests as many as there is room for, several at once, so that a burst need not wait.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from importlib import import_module
from typing import Any

import grpc

cygrpc: Any = import_module("grpc._cython.cygrpc")  # untyped

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

    def update(self) -> None:
        """Requests more calls if there is room; to be called when a call has ended."""
        idle = self._idle
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
