"""What the embedded servers have in common: a private directory, and one child process at a time."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Self

from animora_demo.embedded.errors import EmbeddedError
from animora_demo.embedded.process import ChildProcess


class EmbeddedServer(ABC):
    """A server in a private directory. As an async context manager it starts and stops the server.

    Args:
        directory: The directory of its files; another one where the path is too long for a socket.
        binary: The server's program; None finds it.
    """

    NAME: ClassVar[str]

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
    def pid(self) -> int:
        """The id of the main process.

        Raises:
            EmbeddedError: The server was not started.
        """
        if self._child is None:
            raise self._not_started()
        return self._child.pid

    async def start(self) -> None:
        """Starts the server and waits until it answers; no effect while it runs.

        Raises:
            EmbeddedError: No program was found, or the server did not start.
        """
        if self._child is None or not self._child.running:
            self._child = await self._launch()

    async def stop(self) -> None:
        """Disconnects all clients and stops the server."""
        if self._child is not None:
            await self._child.stop()

    async def kill(self) -> None:
        """Kills the main process (SIGKILL), like a crash."""
        if self._child is not None:
            await self._child.kill()

    @abstractmethod
    async def _launch(self) -> ChildProcess:
        """Starts the process, and sets `_home`. Raises as `start`."""

    def _started_home(self) -> Path:
        """The directory of the files. Raises EmbeddedError before the first start."""
        if self._home is None:
            raise self._not_started()
        return self._home

    def _not_started(self) -> EmbeddedError:
        return EmbeddedError(f"{self.NAME} was not started")
