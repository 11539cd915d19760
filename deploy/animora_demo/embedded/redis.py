"""A private Redis-protocol server: reachable over a Unix socket, ends with its parent."""

import asyncio
from pathlib import Path
from typing import Self
from urllib.parse import quote

from animora_demo.embedded.binaries import find_redis
from animora_demo.embedded.errors import EmbeddedError
from animora_demo.embedded.home import locked, settle
from animora_demo.embedded.process import ChildProcess, Program, bring_up

SOCKET = "redis.sock"
OPTIONS = {
    "port": "0",
    "unixsocketperm": "700",
    "save": "",
    "appendonly": "no",
    "maxmemory": "256mb",
    "maxmemory-policy": "allkeys-lru",
}


class EmbeddedRedis:
    """Redis, or Valkey, in a private directory.

    As an async context manager it starts and stops the server. The address survives `stop` and `kill`; the
    data do not.
    """

    def __init__(self, directory: Path, binary: Path | None = None) -> None:
        self._directory = directory
        self._binary = binary
        self._home: Path | None = None
        self._child: ChildProcess | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        """The URL of database 0, for redis-py."""
        return f"unix://{quote(str(self._socket))}?db=0"

    @property
    def pid(self) -> int:
        """The process' id."""
        if self._child is None:
            raise EmbeddedError("Redis was not started")
        return self._child.pid

    async def start(self) -> None:
        """Starts the server and waits until it answers; no effect while it runs.

        Raises:
            EmbeddedError: No program was found, or the server did not start.
        """
        if self._child is not None and self._child.running:
            return
        binary = find_redis(self._binary)
        home = self._home = settle(self._directory, None)
        options = [word for name, value in OPTIONS.items() for word in (f"--{name}", value)]
        async with locked(home) as lock:
            program = Program(
                command=[binary, "--unixsocket", self._socket, "--dir", home, *options],
                directory=home,
                log=home / "redis.log",
                inherits=(lock,),
            )
            self._child = await bring_up(program, self._answers)

    async def stop(self) -> None:
        """Stops the server."""
        if self._child is not None:
            await self._child.stop()

    async def kill(self) -> None:
        """Kills the server (SIGKILL), like a crash."""
        if self._child is not None:
            await self._child.kill()

    @property
    def _socket(self) -> Path:
        if self._home is None:
            raise EmbeddedError("Redis was not started")
        return self._home / SOCKET

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_unix_connection(self._socket)
        except OSError:
            return False
        try:
            writer.write(b"PING\r\n")
            return (await reader.readline()).startswith(b"+PONG")
        except ConnectionError:
            return False
        finally:
            writer.close()
