"""Calls are taken from gRPC while there is room for them."""

import asyncio
from collections import deque
from typing import Any

import pytest

from animora_server.service.arrivals import MAX_REQUESTED, Intake
from tests.support.until import until


class FakeCore:
    """gRPC's core: matches calls that arrive with requests for calls."""

    def __init__(self) -> None:
        self.requests: deque[asyncio.Future[Any]] = deque()
        self.is_shut_down = False

    async def request_call(self) -> Any:
        if self.is_shut_down:
            raise RuntimeError("shut down")
        request = asyncio.get_running_loop().create_future()
        self.requests.append(request)
        return await request

    def arrive(self, *calls: object) -> None:
        for call in calls:
            request = self.requests.popleft()
            if isinstance(call, Exception):
                request.set_exception(call)
            else:
                request.set_result(call)

    def shut_down(self) -> None:
        self.is_shut_down = True
        while self.requests:
            self.arrive(RuntimeError("shut down"))


class Server:
    """A server with room for some calls, none of which ends by itself."""

    def __init__(self, room: int) -> None:
        self.core = FakeCore()
        self.most = room
        self.taken: list[object] = []
        self.intake = Intake(lambda: self.most - len(self.taken))

    async def take(self) -> object:
        call = await self.intake.next_call(self.core.request_call)
        self.taken.append(call)
        return call

    async def stop(self, reader: "asyncio.Task[object]") -> None:
        self.intake.close()
        self.core.shut_down()
        await self.intake.wait_closed()
        with pytest.raises(RuntimeError, match="shut down"):
            await reader


async def test_as_many_calls_are_requested_as_there_is_room_for():
    server = Server(room=3)
    reader = asyncio.create_task(server.take())
    await until(lambda: len(server.core.requests) == 3)
    await server.stop(reader)


async def test_a_burst_is_taken_up_to_the_most_requests():
    server = Server(room=10 * MAX_REQUESTED)
    reader = asyncio.create_task(server.take())
    await until(lambda: len(server.core.requests) == MAX_REQUESTED)
    await server.stop(reader)


async def test_a_server_is_open_once_all_first_calls_are_requested():
    server = Server(room=10)
    reader = asyncio.create_task(server.take())
    await server.intake.wait_open()
    assert len(server.core.requests) == 10
    await server.stop(reader)


async def test_calls_are_handed_out_in_the_order_of_arrival():
    server = Server(room=10)
    first = asyncio.create_task(server.take())
    await until(lambda: len(server.core.requests) == 10)
    server.core.arrive("a", "b", "c")
    assert [await first, await server.take(), await server.take()] == ["a", "b", "c"]
    await server.stop(asyncio.create_task(server.take()))


async def test_without_room_no_call_is_requested_until_one_ends():
    server = Server(room=1)
    first = asyncio.create_task(server.take())
    await until(lambda: server.core.requests)
    server.core.arrive("a")
    await first
    reader = asyncio.create_task(server.take())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not server.core.requests
    server.taken.clear()
    server.intake.update()
    await until(lambda: len(server.core.requests) == 1)
    await server.stop(reader)


async def test_room_that_grows_as_time_passes_is_noticed():
    server = Server(room=0)
    reader = asyncio.create_task(server.take())
    await asyncio.sleep(0)
    server.most = 2
    await until(lambda: len(server.core.requests) == 2)
    await server.stop(reader)


async def test_an_error_of_a_request_reaches_grpc_and_the_next_calls_are_taken():
    server = Server(room=2)
    reader = asyncio.create_task(server.take())
    await until(lambda: len(server.core.requests) == 2)
    server.core.arrive(RuntimeError("broken"))
    with pytest.raises(RuntimeError, match="broken"):
        await reader
    await until(lambda: len(server.core.requests) == 2)
    server.core.arrive("a")
    assert await server.take() == "a"
    await server.stop(asyncio.create_task(server.take()))


async def test_a_server_without_room_can_shut_down():
    server = Server(room=0)
    reader = asyncio.create_task(server.take())
    await asyncio.sleep(0)
    server.intake.close()
    server.core.shut_down()
    with pytest.raises(RuntimeError, match="shut down"):
        await reader
    await server.intake.wait_closed()
