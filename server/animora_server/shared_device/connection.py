"""A worker's connection to the device process: concurrent calls over one socket."""

import asyncio
import itertools
import weakref
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any, Self

from animora_server.background import log_task_failure, stop
from animora_server.errors import DeviceFault, ProtocolError
from animora_server.shared_device.messages import (
    ANSWERS,
    CALLS,
    READ_BUFFER,
    Value,
    encode_message,
    read_message,
    restore_error,
)


class DeviceConnection:
    """One connection. When it ends, all waiting calls and all later calls raise DeviceFault."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[list[Any]]] = {}
        self._closed_because: str | None = None
        self._reading = asyncio.create_task(self._read(reader), name="device-answers")
        log_task_failure(self._reading, "reading the device process' answers failed")

    @classmethod
    async def open(cls, path: str) -> Self:
        """Connects to the socket at a path. Raises OSError if no process listens there."""
        return cls(*await asyncio.open_unix_connection(path, limit=READ_BUFFER))

    async def call(self, name: str, target: int, *arguments: Value) -> list[Any]:
        """Makes a call of `messages.CALLS` and returns the values of its answer.

        Raises:
            DeviceFault: The connection ended before the answer arrived.
            Exception: The error of the device process; see messages.restore_error.
        """
        if self._closed_because is not None:
            raise DeviceFault(self._closed_because)
        number = next(self._numbers)
        answer: asyncio.Future[list[Any]] = self._loop.create_future()
        self._waiting[number] = answer
        try:
            self._writer.write(encode_message(CALLS, name, number, target, *arguments))
            return await answer
        finally:
            del self._waiting[number]

    def free(self, target: int) -> None:
        """Frees a model or table in the device process, there is no answer. Thread-safe."""

        def send() -> None:
            if self._closed_because is None:
                self._writer.write(encode_message(CALLS, "free", 0, target))

        with suppress(RuntimeError):  # the event loop is closed
            self._loop.call_soon_threadsafe(send)

    async def ended_within(self, seconds: float) -> bool:
        """Waits for the connection's end for at most some seconds; returns whether it has ended."""
        await asyncio.wait((self._reading,), timeout=seconds)
        return self._reading.done()

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
        await stop(self._reading)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        why = "the device process closed the connection"
        try:
            while (message := await read_message(ANSWERS, reader)) is not None:
                answer = self._waiting.get(message.call)
                if answer is None or answer.done():
                    continue  # the caller was cancelled
                if message.name == "error":
                    answer.set_exception(restore_error(*message.values))
                else:
                    answer.set_result(message.values)
        except ProtocolError as error:
            why = f"the device process sent an unreadable message: {error}"
        finally:
            self.close(why)


class RemoteHandle:
    """A model or table in the device process, which is freed there when this object is garbage-collected."""

    __slots__ = ("__weakref__", "_connection", "_number")

    def __init__(self, connection: DeviceConnection, number: int) -> None:
        self._connection = connection
        self._number = number
        weakref.finalize(self, connection.free, number).atexit = False

    def call(self, name: str, *arguments: Value) -> Awaitable[list[Any]]:
        """Makes a call for this object; see DeviceConnection.call."""
        return self._connection.call(name, self._number, *arguments)

    async def create(self, name: str, *arguments: Value) -> "RemoteHandle":
        """Makes a call whose answer is the number of a new object."""
        (number,) = await self.call(name, *arguments)
        return RemoteHandle(self._connection, number)
