"""A private Redis-protocol server: reachable over a Unix socket, ends with its parent."""

import asyncio
from pathlib import Path
from urllib.parse import quote

from animora_demo.embedded.binaries import find_redis
from animora_demo.embedded.home import locked, settle
from animora_demo.embedded.process import ChildProcess, Program, bring_up
from animora_demo.embedded.server import EmbeddedServer

SOCKET = "redis.sock"
OPTIONS = {
    "port": "0",
    "unixsocketperm": "700",
    "save": "",
    "appendonly": "no",
    "maxmemory": "256mb",
    "maxmemory-policy": "allkeys-lru",
}


class EmbeddedRedis(EmbeddedServer):
    """Redis, or Valkey, in a private directory.

    The address survives `stop` and `kill`; the data do not.
    """

    NAME = "Redis"

    @property
    def url(self) -> str:
        """The URL of database 0, for redis-py."""
        return f"unix://{quote(str(self._socket))}?db=0"

    async def _launch(self) -> ChildProcess:
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
            return await bring_up(program, self._answers)

    @property
    def _socket(self) -> Path:
        return self._started_home() / SOCKET

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
