"""A TCP proxy that can fall silent: it keeps its connections open but forwards nothing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path


class SilentProxy:
    """Forwards connections to a server's socket.

    Attributes:
        port: The port that it listens on.
        connections: The number of connections accepted.
    """

    def __init__(self, target: Path) -> None:
        self.port = 0
        self.connections = 0
        self._target = target
        self._pumps: set[asyncio.Task[None]] = set()
        self._open: list[asyncio.StreamWriter] = []

    def url(self, name: str) -> str:
        """The connection string of a database through the proxy."""
        return f"postgresql://animora@127.0.0.1:{self.port}/{name}?sslmode=disable"

    def fall_silent(self) -> None:
        """Stops forwarding for the existing connections; new ones are served."""
        for pump in self._pumps:
            pump.cancel()
        self._pumps.clear()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Accepts a connection."""
        self.connections += 1
        answers, target = await asyncio.open_unix_connection(self._target)
        self._open += (writer, target)
        self._pumps |= {
            asyncio.create_task(_pump(reader, target)),
            asyncio.create_task(_pump(answers, writer)),
        }

    def close(self) -> None:
        """Ends all connections."""
        self.fall_silent()
        for writer in self._open:
            writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def silent_proxy(target: Path) -> AsyncIterator[SilentProxy]:
    """A proxy for a server that listens on a Unix socket."""
    proxy = SilentProxy(target)
    server = await asyncio.start_server(proxy.connected, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.close()
