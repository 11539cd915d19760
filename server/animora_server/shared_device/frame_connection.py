"""A worker's connection to the device process that it shares: questions, and the answers to each."""

import asyncio
import contextlib
import itertools
from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt

from animora_server.background import log_task_failure, stop
from animora_server.errors import DeviceFault, ProtocolError
from animora_server.shared_device.error_codec import decode_error
from animora_server.shared_device.frames import FrameKind, Part, read_frame, text, to_bytes

READ_AHEAD = 1 << 20  # bytes


class FrameConnection:
    """One connection. When it ends, what waits for an answer fails with DeviceFault, as does what follows."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._calls = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Sequence[Part]]] = {}
        self._end: str | None = None
        self._listening = asyncio.create_task(self._listen(reader), name="device-answers")
        log_task_failure(self._listening, "the device's answers are not read any more")

    @classmethod
    async def open(cls, path: str) -> Self:
        """Connects to the socket at a path. Raises OSError if nobody listens there."""
        return cls(*await asyncio.open_unix_connection(path, limit=READ_AHEAD))

    async def call(self, kind: FrameKind, *parts: npt.NDArray[np.generic] | str) -> Sequence[Part]:
        """The answer's parts.

        Raises:
            DeviceFault: The connection has ended, or does before there is an answer.
            Exception: What the device process says that it is; see failures.
        """
        if self._end is not None:
            raise DeviceFault(self._end)
        call = next(self._calls)
        answer: asyncio.Future[Sequence[Part]] = self._loop.create_future()
        self._waiting[call] = answer
        try:
            self._writer.write(to_bytes(kind, call, *parts))
            return await answer
        finally:
            del self._waiting[call]

    def notify(self, kind: FrameKind, number: int) -> None:
        """Sends a number that nobody answers, if there still is someone to send it to. From any thread."""

        def send() -> None:
            if self._end is None:
                self._writer.write(to_bytes(kind, 0, np.array([number], np.int64)))

        if self._end is None:
            with contextlib.suppress(RuntimeError):  # the loop has just been closed
                self._loop.call_soon_threadsafe(send)

    async def ended_within(self, seconds: float) -> bool:
        """Whether it has ended, now or within some seconds."""
        await asyncio.wait((self._listening,), timeout=seconds)
        return self._listening.done()

    def close(self, why: str) -> None:
        """Ends it."""
        if self._end is not None:
            return
        self._end = why
        self._writer.transport.abort()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(DeviceFault(why))

    async def aclose(self) -> None:
        """Ends it, and waits until it has."""
        self.close("the connection to the device process was closed")
        await stop(self._listening)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        why = "the device process has gone"
        try:
            while (frame := await read_frame(reader)) is not None:
                answer = self._waiting.get(frame.call)
                if answer is None or answer.done():
                    continue  # whoever asked has gone
                if frame.kind is FrameKind.DONE:
                    answer.set_result(frame.parts)
                else:
                    name, said = map(text, frame.parts)
                    answer.set_exception(decode_error(name, said))
        except (ProtocolError, ValueError) as error:
            why = f"the device process cannot be understood: {error}"
        finally:
            self.close(why)
