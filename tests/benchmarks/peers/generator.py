"""The benchmark's own generator: a closed loop that checks every reply."""

import asyncio
import http.client
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from itertools import cycle

import grpc
import numpy as np

from tests.benchmarks.h2load import RecordedCall, Route
from tests.benchmarks.load import Turn
from tests.benchmarks.peers.protocols import Wire, WrongReply
from tests.benchmarks.peers.queries import Query
from tests.benchmarks.processes import Server

TIMEOUT = 10.0  # seconds of a call

# Errors of a call.
FAILURES = (grpc.RpcError, http.client.HTTPException, OSError)

# A message out, a message in.
Send = Callable[[bytes], Awaitable[bytes]]


class Exchange:
    """A request message of some queries, and the replies to it that passed the check."""

    def __init__(self, wire: Wire, queries: Sequence[Query]) -> None:
        self.message = wire.message(queries)
        self._wire = wire
        self._queries = queries
        self._right: set[bytes] = set()  # replies to one message differ by rounding only

    def check(self, reply: bytes) -> None:
        """Checks a reply, unless an equal one passed before.

        Raises:
            WrongReply: Posts, order or scores are wrong.
        """
        if reply in self._right:
            return
        answers = self._wire.answers(reply)
        if len(answers) != len(self._queries):
            raise WrongReply(f"{len(answers)} answers to {len(self._queries)} queries")
        for query, answer in zip(self._queries, answers, strict=True):
            if wrong := query.problem_with(*answer):
                raise WrongReply(wrong)
        self._right.add(reply)

    async def record(self, send: Send) -> RecordedCall:
        """Sends the message and returns it with its checked reply, for h2load.

        Raises:
            WrongReply: The reply is wrong.
        """
        reply = await send(self.message)
        self.check(reply)
        return RecordedCall(self._wire.route, self.message, reply)


@asynccontextmanager
async def connected(server: Server, route: Route) -> AsyncIterator[Send]:
    """A connection for one call at a time."""
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
    """Runs `callers` concurrent callers that send the messages in rotation.

    Raises:
        ExceptionGroup: Of WrongReply where a reply is wrong, of FAILURES where a call failed.
    """
    latencies: list[float] = []
    left = cycle(exchanges)
    before, began = server.cpu_seconds(), time.monotonic()
    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(_caller(server, route, left, began + seconds, latencies))
    calls, elapsed = len(latencies), time.monotonic() - began
    p50, p99 = np.percentile(latencies, (50, 99)) * 1e3
    return Turn(calls / elapsed, float(p50), float(p99), (server.cpu_seconds() - before) / calls * 1e6)


async def _caller(
    server: Server, route: Route, exchanges: Iterator[Exchange], end: float, latencies: list[float]
) -> None:
    async with connected(server, route) as send:
        for exchange in exchanges:
            began = time.monotonic()
            if began >= end:
                break
            reply = await send(exchange.message)
            latencies.append(time.monotonic() - began)
            exchange.check(reply)
