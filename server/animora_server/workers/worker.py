"""A worker, as the process that started it sees it."""

import asyncio
import socket
import sys
import time
from contextlib import suppress
from typing import Self

import structlog

from animora_server.background import log_task_failure
from animora_server.observability.aggregation import Report, from_json, of_process
from animora_server.settings import Settings
from animora_server.workers.ipc_messages import LONGEST, Message, from_line, settings_message, to_line

log = structlog.get_logger(__name__)

# Without the folder it is started in on its path.
COMMAND = (sys.executable, "-P", "-m", "animora_server.workers")
LAST_WORDS = 1.0  # seconds for what a worker sent before it ended


class Worker:
    """One run of a worker.

    Attributes:
        name: Its number, from 1, or DEVICE.
        report: Its metrics, as far as they are known.
        unready: Why it answers no calls, or None.
        served_at: When it first did (time.monotonic()), or None.
        refused: The option that is wrong, in words, or None.
        hung: Whether it was ended because it was not well for too long.
    """

    def __init__(
        self,
        name: str,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.name = name
        self.report: Report = ()
        self.unready: str | None = "starting"
        self.served_at: float | None = None
        self.refused: str | None = None
        self.hung = False
        self._process = process
        self._writer = writer
        self._reported = asyncio.Event()
        self._well = False
        self._looks_missed = 0
        self._listening = asyncio.create_task(self._listen(reader), name=f"worker-{name}")
        log_task_failure(self._listening, "a worker is not listened to any more")

    @classmethod
    async def start(cls, name: str, settings: Settings, device_socket: str | None) -> Self:
        """Starts a run.

        It is a new interpreter and no fork, and a session of its own: a terminal's Ctrl-C is for the parent.

        Raises:
            OSError: The system has no process or no descriptor left.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    *COMMAND, stdin=theirs.fileno(), start_new_session=True
                )
            except OSError:
                ours.close()
                raise
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=LONGEST)
        worker = cls(name, process, reader, writer)
        worker._send({"name": name, "settings": settings_message(settings), "device_socket": device_socket})
        return worker

    @property
    def pid(self) -> int:
        """The process' id."""
        return self._process.pid

    async def ended(self) -> int:
        """Its exit status, once it has ended and all that it said was heard; a signal's is negative."""
        status = await self._process.wait()
        await asyncio.wait((self._listening,), timeout=LAST_WORDS)
        self._listening.cancel()
        self._writer.close()
        self.unready = "ended"
        return status

    def stop(self) -> None:
        """Tells it to drain and to end."""
        self._send({"ask": "drain"})

    def kill(self) -> None:
        """Ends it by force."""
        with suppress(ProcessLookupError):
            self._process.kill()

    def look(self) -> int:
        """Asks whether it is well. Returns how many earlier looks in a row found that it is not."""
        self._looks_missed = 0 if self._well else self._looks_missed + 1
        self._well = False
        self._send({"ask": "state"})
        return self._looks_missed

    async def refresh(self, within: float) -> None:
        """Asks for its metrics; if it does not answer in time, in seconds, the last ones stay."""
        self._reported.clear()
        self._send({"ask": "metrics"})
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._reported.wait()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError):
            while (line := await reader.readline()).endswith(b"\n"):  # half a line is a killed worker's
                self._hear(from_line(line))
        self._reported.set()  # nothing more will come

    def _hear(self, message: Message) -> None:
        if "state" in message:
            state = message["state"]
            self._well = state["dead"] is None
            self.unready = state["unready"] if self._well else state["dead"]
            if self.unready is None and self.served_at is None:
                self.served_at = time.monotonic()
        elif "metrics" in message:
            self.report = of_process(from_json(message["metrics"]), self.name)
            self._reported.set()
        else:
            self.refused = message["refused"]

    def _send(self, message: Message) -> None:
        if not self._writer.is_closing():
            self._writer.write(to_line(message))
