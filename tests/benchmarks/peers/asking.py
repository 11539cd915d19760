"""The benchmark's own generator: a closed loop that looks at every reply."""

import asyncio
import http.client
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from itertools import cycle

import grpc
import numpy as np

from tests.benchmarks.h2load import Asked, Route
from tests.benchmarks.load import Turn
from tests.benchmarks.peers.protocols import Wire, Wrong
from tests.benchmarks.peers.questions import Question
from tests.benchmarks.processes import Server

TIMEOUT = 10.0  # seconds of a call

# How a call fails.
FAILURES = (grpc.RpcError, http.client.HTTPException, OSError)

# A message out, a message in.
Send = Callable[[bytes], Awaitable[bytes]]


class Exchange:
    """A message with some questions, and what was found right as a reply to it."""

    def __init__(self, wire: Wire, questions: Sequence[Question]) -> None:
        self.message = wire.message(questions)
        self._wire = wire
        self._questions = questions
        self._right: set[bytes] = set()  # replies differ by how a batch rounds, and no more than that

    def check(self, reply: bytes) -> None:
        """Looks at a reply that was not looked at before.

        Raises:
            Wrong: It has not the right posts in the right order, with their scores.
        """
        if reply in self._right:
            return
        answers = self._wire.answers(reply)
        if len(answers) != len(self._questions):
            raise Wrong(f"{len(answers)} answers to {len(self._questions)} questions")
        for question, answer in zip(self._questions, answers, strict=True):
            if wrong := question.wrong_with(*answer):
                raise Wrong(wrong)
        self._right.add(reply)

    async def asked(self, send: Send) -> Asked:
        """It with a right reply, for h2load.

        Raises:
            Wrong: The reply is wrong.
        """
        reply = await send(self.message)
        self.check(reply)
        return Asked(self._wire.route, self.message, reply)


@asynccontextmanager
async def connected(server: Server, route: Route) -> AsyncIterator[Send]:
    """A connection, for one call at once."""
    async with (_connected_by_grpc if route.is_grpc else _connected_by_http)(server, route) as send:
        yield send


@asynccontextmanager
async def _connected_by_grpc(server: Server, route: Route) -> AsyncIterator[Send]:
    own_connection = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.insecure_channel(server.target, own_connection) as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(route.path)

        async def send(message: bytes) -> bytes:
            return await call(message, timeout=TIMEOUT)

        yield send


@asynccontextmanager
async def _connected_by_http(server: Server, route: Route) -> AsyncIterator[Send]:
    connection = http.client.HTTPConnection(server.target, timeout=TIMEOUT)

    def post(message: bytes) -> bytes:
        connection.request("POST", route.path, message, {"Content-Type": route.content_type})
        response = connection.getresponse()
        reply = response.read()
        if response.status != http.client.OK:
            raise http.client.HTTPException(f"{response.status}: {reply[:200]!r}")
        return reply

    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as thread, closing(connection):  # the loop's own threads are too few
        yield lambda message: loop.run_in_executor(thread, post, message)


async def drive(
    server: Server, route: Route, exchanges: Sequence[Exchange], callers: int, seconds: float
) -> Turn:
    """Keeps so many callers busy, who send the messages in turn.

    Raises:
        ExceptionGroup: Of Wrong where a reply is wrong, of FAILURES where a call failed.
    """
    took: list[float] = []
    left = cycle(exchanges)
    before, began = server.cpu_seconds(), time.monotonic()
    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(_caller(server, route, left, began + seconds, took))
    calls, elapsed = len(took), time.monotonic() - began
    p50, p99 = np.percentile(took, (50, 99)) * 1e3
    return Turn(calls / elapsed, float(p50), float(p99), (server.cpu_seconds() - before) / calls * 1e6)


async def _caller(
    server: Server, route: Route, exchanges: Iterator[Exchange], end: float, took: list[float]
) -> None:
    async with connected(server, route) as send:
        for exchange in exchanges:
            began = time.monotonic()
            if began >= end:
                break
            reply = await send(exchange.message)
            took.append(time.monotonic() - began)
            exchange.check(reply)
