"""Connections of the load generator, which send and receive serialised messages."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from itertools import cycle

import grpc

from animora_client.aio import open_channel
from animora_client.bench.driving import Send
from animora_client.connection import Connection
from animora_client.errors import Unavailable


@asynccontextmanager
async def connected(connection: Connection, path: str, connections: int) -> AsyncIterator[Send]:
    """Opens connections, and sends serialised messages to the method at `path` over each in rotation.

    Raises:
        Unavailable: No server could be reached within the connection's timeout.
    """
    # Otherwise channels with equal arguments share one connection.
    separate_pool = ("grpc.use_local_subchannel_pool", 1)
    options = replace(connection.channel, extra=(*connection.channel.extra, separate_pool))
    arguments = replace(connection, channel=options).ranking_arguments()
    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(open_channel(connection, arguments)) for _ in range(connections)
        ]
        try:
            async with asyncio.timeout(connection.timeout):
                await asyncio.gather(*(channel.channel_ready() for channel in channels))
        except TimeoutError as error:
            message = f"no server could be reached within {connection.timeout:g} s"
            raise Unavailable(message, grpc.StatusCode.UNAVAILABLE) from error
        # Without serialisers: bytes in, bytes out.
        callables: list[grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]] = [
            channel.unary_unary(path) for channel in channels
        ]
        methods = cycle(callables)
        call = connection.call()

        async def send(body: bytes) -> bytes:
            return await next(methods)(body, **call)

        yield send
