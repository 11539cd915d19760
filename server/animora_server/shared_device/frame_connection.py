"""A worker's connection to the device process: concurrent calls over one socket."""

import asyncio
import contextlib
import itertools
from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt

from animora_server.background import log_task_failure, stop
from animora_server.errors import DeviceFault, ProtocolError
from animora_server.shared_device.frames import FrameKind, Part, decode_error, read_frame, text, to_bytes

READ_BUFFER = 1 << 20  # bytes


class FrameConnection:
    """One connection. When it ends, all waiting calls and all later calls raise DeviceFault."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._calls = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Sequence[Part]]] = {}
        self._closed_because: str | None = None
        self._reader_task = asyncio.create_task(self._read_answers(reader), name="device-answers")
        log_task_failure(self._reader_task, "reading the device process' answers failed")

    @classmethod
    async def open(cls, path: str) -> Self:
        """Connects to the socket at a path. Raises OSError if no process listens there."""
        return cls(*await asyncio.open_unix_connection(path, limit=READ_BUFFER))

    async def call(self, kind: FrameKind, *parts: npt.NDArray[np.generic] | str) -> Sequence[Part]:
        """Sends a call and returns the parts of its answer.

        Raises:
            DeviceFault: The connection ended before the answer arrived.
            Exception: The error of the device process; see frames.decode_error.
        """
        if self._closed_because is not None:
            raise DeviceFault(self._closed_because)
        call = next(self._calls)
        answer: asyncio.Future[Sequence[Part]] = self._loop.create_future()
        self._waiting[call] = answer
        try:
            self._writer.write(to_bytes(kind, call, *parts))
            return await answer
        finally:
            del self._waiting[call]

    def notify(self, kind: FrameKind, number: int) -> None:
        """Sends a number without waiting for an answer, unless the connection has ended. From any thread."""

        def send() -> None:
            if self._closed_because is None:
                self._writer.write(to_bytes(kind, 0, np.array([number], np.int64)))

        if self._closed_because is None:
            with contextlib.suppress(RuntimeError):  # the event loop is closed
                self._loop.call_soon_threadsafe(send)

    async def ended_within(self, seconds: float) -> bool:
        """Waits for the connection's end for at most some seconds; returns whether it has ended."""
        await asyncio.wait((self._reader_task,), timeout=seconds)
        return self._reader_task.done()

    def close(self, why: str) -> None:
        """Ends the connection; waiting calls raise DeviceFault with the reason."""
        if self._closed_because is not None:
            return
        self._closed_because = why
        self._writer.transport.abort()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(DeviceFault(why))

    async def aclose(self) -> None:
        """Ends the connection and waits for its reading task."""
        self.close("the connection to the device process was closed")
        await stop(self._reader_task)

    async def _read_answers(self, reader: asyncio.StreamReader) -> None:
        why = "the device process closed the connection"
        try:
            while (frame := await read_frame(reader)) is not None:
                answer = self._waiting.get(frame.call)
                if answer is None or answer.done():
                    continue  # the caller was cancelled
                if frame.kind is FrameKind.DONE:
                    answer.set_result(frame.parts)
                else:
                    name, message = map(text, frame.parts)
                    answer.set_exception(decode_error(name, message))
        except (ProtocolError, ValueError) as error:
            why = f"the device process sent an unreadable frame: {error}"
        finally:
            self.close(why)
