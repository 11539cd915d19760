"""The supervisor's end of the socket to a worker."""

import asyncio
import socket
import sys
import time
from contextlib import suppress
from typing import Self

from animora_server.background import log_task_failure
from animora_server.observability.aggregation import MetricsReport, from_json, label_process
from animora_server.settings import Settings
from animora_server.workers.ipc_messages import (
    MAX_LINE_BYTES,
    Message,
    decode_message,
    encode_message,
    encode_settings,
)

# -P keeps the current folder off sys.path.
COMMAND = (sys.executable, "-P", "-m", "animora_server.workers")
FINAL_READ_TIMEOUT = 1.0  # seconds to read what a worker sent before it ended


class Worker:
    """One run of a worker process.

    Attributes:
        name: The worker's number, from 1, or DEVICE.
        report: The last metrics that it sent.
        unready: Why it does not serve, or None.
        served_at: When it first served (time.monotonic()), or None.
        config_error: The invalid option that it reported, or None.
        hung: Whether it was killed because it was unhealthy for too long.
    """

    def __init__(
        self,
        name: str,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.name = name
        self.report: MetricsReport = ()
        self.unready: str | None = "starting"
        self.served_at: float | None = None
        self.config_error: str | None = None
        self.hung = False
        self._process = process
        self._writer = writer
        self._reported = asyncio.Event()
        self._healthy = False
        self._missed_checks = 0
        self._reading = asyncio.create_task(self._read(reader), name=f"worker-{name}")
        log_task_failure(self._reading, "reading from a worker failed")

    @classmethod
    async def start(cls, name: str, settings: Settings, device_socket: str | None) -> Self:
        """Starts a worker: a new interpreter, not a fork, in its own session.

        A terminal's Ctrl-C reaches only the supervisor.

        Raises:
            OSError: The system is out of processes or descriptors.
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
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=MAX_LINE_BYTES)
        worker = cls(name, process, reader, writer)
        worker._send({"name": name, "settings": encode_settings(settings), "device_socket": device_socket})
        return worker

    @property
    def pid(self) -> int:
        """The process' id."""
        return self._process.pid

    async def wait(self) -> int:
        """Waits until the worker has ended and its last messages are read.

        Returns:
            The exit status; negative for a signal.
        """
        status = await self._process.wait()
        await asyncio.wait((self._reading,), timeout=FINAL_READ_TIMEOUT)
        self._reading.cancel()
        self._writer.close()
        self.unready = "ended"
        return status

    def stop(self) -> None:
        """Sends `drain`: the worker drains and ends."""
        self._send({"ask": "drain"})

    def kill(self) -> None:
        """Kills the worker (SIGKILL)."""
        with suppress(ProcessLookupError):
            self._process.kill()

    def check(self) -> int:
        """Requests the worker's state. Returns how many checks before it failed in a row."""
        self._missed_checks = 0 if self._healthy else self._missed_checks + 1
        self._healthy = False
        self._send({"ask": "state"})
        return self._missed_checks

    async def refresh_metrics(self, timeout: float) -> None:
        """Requests the worker's metrics; after `timeout` seconds the last ones stay."""
        self._reported.clear()
        self._send({"ask": "metrics"})
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._reported.wait()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with suppress(ConnectionError):
            while (line := await reader.readline()).endswith(b"\n"):  # a killed worker may leave half a line
                self._handle(decode_message(line))
        self._reported.set()  # wakes refresh_metrics: the worker has ended

    def _handle(self, message: Message) -> None:
        if "state" in message:
            state = message["state"]
            self._healthy = state["dead"] is None
            self.unready = state["unready"] if self._healthy else state["dead"]
            if self.unready is None and self.served_at is None:
                self.served_at = time.monotonic()
        elif "metrics" in message:
            self.report = label_process(from_json(message["metrics"]), self.name)
            self._reported.set()
        else:
            self.config_error = message["refused"]

    def _send(self, message: Message) -> None:
        if not self._writer.is_closing():
            self._writer.write(encode_message(message))
