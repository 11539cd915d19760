"""A TCP proxy that damages the connections through it."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

from animora_database import parse_dsn

CHUNK = 1 << 16  # bytes that are forwarded at once, at most
ABORTIVE = struct.pack("ii", 1, 0)  # a value of SO_LINGER with which closing a socket resets the connection


@dataclass(eq=False)
class Connection:
    """A client's connection to the proxy, and the proxy's own to the server."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    pumps: list[asyncio.Task[None]] = field(default_factory=list)

    def fall_silent(self) -> None:
        """Forwards nothing any more, and leaves both open."""
        for pump in self.pumps:
            pump.cancel()

    def close(self) -> None:
        """Closes both."""
        self.fall_silent()
        self.client.close()
        self.server.close()

    async def wait_closed(self) -> None:
        """Waits until both are closed."""
        for writer in (self.client, self.server):
            with suppress(OSError):
                await writer.wait_closed()


Fault = Callable[[bytes, Connection], Awaitable[None]]
"""Takes a chunk of the server's replies in place of the client."""


async def black_hole(chunk: bytes, connection: Connection) -> None:
    """Forwards no reply any more, and leaves the connection open."""
    await asyncio.Future()


async def reset(chunk: bytes, connection: Connection) -> None:
    """Resets the connection in place of a reply."""
    connection.client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORTIVE)
    connection.client.transport.abort()
    connection.close()


async def truncate(chunk: bytes, connection: Connection) -> None:
    """Forwards half of a reply, and closes the connection."""
    connection.client.write(chunk[: len(chunk) // 2])
    connection.close()


async def flip(chunk: bytes, connection: Connection) -> None:
    """Flips one bit in the middle of a reply."""
    middle = len(chunk) // 2
    connection.client.write(chunk[:middle] + bytes([chunk[middle] ^ 1]) + chunk[middle + 1 :])


async def half_close(chunk: bytes, connection: Connection) -> None:
    """Forwards a reply, and no other: the client reads the end, but what it sends still arrives."""
    connection.client.write(chunk)
    connection.client.write_eof()
    await asyncio.Future()


def delay(seconds: float) -> Fault:
    """Forwards each chunk of replies late; the chunks of a connection wait for one another."""

    async def fault(chunk: bytes, connection: Connection) -> None:
        await asyncio.sleep(seconds)
        connection.client.write(chunk)

    return fault


class FaultProxy:
    """Listens on a free port, and forwards connections to a server.

    Args:
        target: The server's port on loopback, or its Unix socket.
        ssl: TLS towards clients.

    Attributes:
        target: Where connections lead that are made from now on; a connection stays with its server.
        fault: What happens to replies from now on, on all connections; None forwards them.
        connections: The number of connections accepted so far.
    """

    def __init__(self, target: int | Path, ssl: ssl.SSLContext | None = None) -> None:
        self.target = target
        self.fault: Fault | None = None
        self.connections = 0
        self._ssl = ssl
        self._open: set[Connection] = set()
        self._server: asyncio.Server

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._ssl)
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._server.close()
        for connection in self._open:
            connection.close()
            await connection.wait_closed()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def fall_silent(self) -> None:
        """Leaves the present connections open and forwards nothing on them; later ones work."""
        for connection in self._open:
            connection.fall_silent()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            replies, server = await self._connect()
        except OSError:  # the server is away
            writer.close()
            return
        connection = Connection(writer, server)
        self._open.add(connection)
        connection.pumps += (
            asyncio.create_task(self._forward(reader, connection)),
            asyncio.create_task(self._reply(replies, connection)),
        )

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self.target, Path):
            return await asyncio.open_unix_connection(self.target)
        return await asyncio.open_connection("127.0.0.1", self.target)

    async def _forward(self, requests: asyncio.StreamReader, connection: Connection) -> None:
        with suppress(OSError):
            while chunk := await requests.read(CHUNK):
                connection.server.write(chunk)
                await connection.server.drain()
        connection.server.close()

    async def _reply(self, replies: asyncio.StreamReader, connection: Connection) -> None:
        with suppress(OSError):
            while chunk := await replies.read(CHUNK):
                if self.fault is None:
                    connection.client.write(chunk)
                else:
                    await self.fault(chunk, connection)
                await connection.client.drain()
        connection.client.close()


@asynccontextmanager
async def before_postgres(url: str) -> AsyncIterator[tuple[FaultProxy, str]]:
    """A proxy to an embedded PostgreSQL, and the connection string of the same database through it."""
    dsn = parse_dsn(url)
    ((host, port),) = dsn.hosts
    async with FaultProxy(Path(host) / f".s.PGSQL.{port}") as proxy:
        name = dsn.arguments["database"]
        yield proxy, f"postgresql://animora@127.0.0.1:{proxy.port}/{name}?sslmode=disable"


@asynccontextmanager
async def before_redis(url: str) -> AsyncIterator[tuple[FaultProxy, str]]:
    """A proxy to an embedded Redis, and the URL of the same database through it."""
    async with FaultProxy(Path(unquote(urlsplit(url).path))) as proxy:
        yield proxy, f"redis://127.0.0.1:{proxy.port}/0"
