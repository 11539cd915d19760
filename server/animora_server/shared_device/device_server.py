"""The server side of a shared device: accepts workers' connections and executes their calls."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from animora_server.background import log_task_failure, stop, was_cancelled
from animora_server.errors import DeviceFault, ProtocolError
from animora_server.shared_device.messages import (
    ANSWERS,
    CALLS,
    DEVICE,
    READ_BUFFER,
    VERSION,
    Message,
    describe_error,
    encode_message,
    read_message,
)
from animora_server.shared_device.shared_models import Region, SharedModel, SharedModels

log = structlog.get_logger(__name__)


@asynccontextmanager
async def serving_device(path: str, name: str, models: SharedModels) -> AsyncIterator[None]:
    """Listens on a Unix socket for workers, and ends their sessions at the end.

    Args:
        path: The socket's path, in a folder that only this user can enter.
        name: The device's name, which workers show.
        models: The models of the workers.

    Raises:
        OSError: The socket cannot be bound.
    """
    sessions: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = asyncio.create_task(DeviceSession(writer, name, models).run(reader), name="session")
        log_task_failure(session, "worker session failed")
        sessions.add(session)
        session.add_done_callback(sessions.discard)

    server = await asyncio.start_unix_server(accept, path, limit=READ_BUFFER)
    try:
        yield
    finally:
        server.close()
        for session in list(sessions):
            await stop(session)


class DeviceSession:
    """The connection of one worker. Its models and regions are freed when the connection ends.

    A call of `messages.CALLS` is a method of its target: of a model, a region, or of this session for DEVICE.
    Models and regions among the results are held for the worker, which gets their numbers.
    """

    def __init__(self, writer: asyncio.StreamWriter, name: str, models: SharedModels) -> None:
        self._writer = writer
        self._name = name
        self._shared = models
        self._held: dict[int, SharedModel | Region] = {}
        self._numbers = itertools.count(1)
        self._calls: set[asyncio.Task[None]] = set()

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Executes calls until the worker disconnects or sends a message that cannot be read."""
        try:
            while (message := await read_message(CALLS, reader)) is not None:
                if message.name == "free":
                    self._free(message.target)
                    continue
                task = asyncio.create_task(self._answer(message))
                self._calls.add(task)
                task.add_done_callback(self._calls.discard)
                log_task_failure(task, "worker call failed without an answer")
        except ProtocolError as error:
            log.error("worker sent an unreadable message; disconnecting", error=str(error))
        finally:
            self._writer.transport.abort()
            for task in list(self._calls):
                await stop(task)
            for number in list(self._held):
                self._free(number)

    async def hello(self, version: int) -> str:
        """Returns the device's name. Raises DeviceFault for another version of the protocol."""
        if version != VERSION:
            raise DeviceFault(f"the device process supports only version {VERSION} of the protocol")
        return self._name

    async def load(self, version: str) -> tuple[SharedModel, bool]:
        """Returns a model, and whether it is compiled. See SharedModels.load."""
        model = await self._shared.load(version)
        return model, model.loaded.compiled

    async def _answer(self, message: Message) -> None:
        try:
            target = self._held[message.target] if message.target else self
            results = await getattr(target, message.name)(*message.values)
            results = results if isinstance(results, tuple) else (results,)
            values = [
                self._hold(each) if isinstance(each, SharedModel | Region) else each for each in results
            ]
            answer = encode_message(ANSWERS, message.name, message.call, DEVICE, *values)
        except asyncio.CancelledError:
            if was_cancelled():
                raise
            fault = DeviceFault("the work was cancelled in the device process")
            answer = encode_message(ANSWERS, "error", message.call, DEVICE, *describe_error(fault))
        except Exception as error:  # every error must reach the worker's call
            answer = encode_message(ANSWERS, "error", message.call, DEVICE, *describe_error(error))
        self._writer.write(answer)

    def _hold(self, held: SharedModel | Region) -> int:
        number = next(self._numbers)
        self._held[number] = held
        return number

    def _free(self, number: int) -> None:
        held = self._held.pop(number, None)
        if isinstance(held, Region):
            held.release()
