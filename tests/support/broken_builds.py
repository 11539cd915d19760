"""Builds of the server with a fault, which the bench must notice.

A script: its arguments are the name of the build, then those of animora-server.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from itertools import count
from typing import Any

from animora_proto.ranking.v1 import ranking_pb2 as pb
from animora_server import app
from animora_server.__main__ import main
from animora_server.errors import TooManyRequests
from animora_server.service import GrpcServer
from animora_server.service.calls import Call

Method = Callable[[bytes, Call], Awaitable[bytes]]
LEAKED_BYTES = 1 << 17  # a call
LEAKED_BYTES_A_SECOND = 30 << 20
ONE_IN = 40  # calls with each of the faults of the losing build
REFUSED_ONE_IN = 50  # calls


def leaking(method: Method) -> Method:
    """Keeps memory for each call."""
    leaked: list[bytearray] = []

    async def call(data: bytes, call: Call) -> bytes:
        leaked.append(bytearray(b"x" * LEAKED_BYTES))
        return await method(data, call)

    return call


def leaking_with_time(method: Method) -> Method:
    """Keeps more memory with time, from the first call on, whatever the rate of calls."""
    leaked = bytearray()
    began: float | None = None

    async def call(data: bytes, call: Call) -> bytes:
        nonlocal began
        if began is None:
            began = time.monotonic()
        missing = int(LEAKED_BYTES_A_SECOND * (time.monotonic() - began)) - len(leaked)
        leaked.extend(b"x" * missing)
        return await method(data, call)

    return call


def losing(method: Method) -> Method:
    """Of ONE_IN calls, never answers one, answers one as the call before it, and changes a score of one."""
    numbers, earlier = count(), b""

    async def call(data: bytes, call: Call) -> bytes:
        nonlocal earlier
        number = next(numbers) % ONE_IN
        reply, before = await method(data, call), earlier
        earlier = reply
        if number == 10:
            await asyncio.Future()
        if number == 20:
            return before
        if number == 30:
            response = pb.RankResponse.FromString(reply)
            response.scores[0] += 0.001
            return response.SerializeToString()
        return reply

    return call


def refusing(method: Method) -> Method:
    """Refuses one of REFUSED_ONE_IN calls."""
    numbers = count(1)

    async def call(data: bytes, call: Call) -> bytes:
        if next(numbers) % REFUSED_ONE_IN == 0:
            raise TooManyRequests(0.1)
        return await method(data, call)

    return call


BUILDS = {
    "leaking": leaking,
    "leaking-with-time": leaking_with_time,
    "losing": losing,
    "refusing": refusing,
}


def broken(build: Callable[[Method], Method]) -> type[GrpcServer]:
    """The gRPC server with Rank in another build."""

    class BrokenServer(GrpcServer):
        def __init__(self, settings: Any, handler: Any, methods: Mapping[str, Any], *more: Any) -> None:
            super().__init__(settings, handler, {**methods, "Rank": build(methods["Rank"])}, *more)

    return BrokenServer


if __name__ == "__main__":
    vars(app)["GrpcServer"] = broken(BUILDS[sys.argv.pop(1)])
    main()
