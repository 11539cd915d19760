"""The server side of a shared device: accepts workers' connections and executes their calls."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Self, TypeAlias

import numpy as np
import numpy.typing as npt
import structlog

from animora_artifact.checked import require_rows
from animora_server.background import log_task_failure, stop, was_cancelled
from animora_server.batching import CostModel
from animora_server.errors import DeviceFault, ProtocolError
from animora_server.inference.requests import ExplainRequest
from animora_server.shared_device.frames import (
    VERSION,
    Frame,
    FrameKind,
    Part,
    doubles,
    encode_error,
    halves,
    integers,
    read_frame,
    text,
    to_bytes,
)
from animora_server.shared_device.shared_models import (
    DeviceBatcher,
    ReceivedEmbeddings,
    Region,
    SharedModel,
    SharedModels,
)

log = structlog.get_logger(__name__)

READ_BUFFER = 1 << 20  # bytes

Result: TypeAlias = Sequence[npt.NDArray[np.generic] | str]


class DeviceServer:
    """Listens on a Unix socket for workers, an async context manager.

    Args:
        path: The socket's path, in a folder that only this user can enter.
        name: The device's name, which workers show.
        models: Loads versions for the workers.
        batcher: The device's queue.
        cost: The cost estimate of the device, calibrated when a model is warmed.
    """

    def __init__(
        self, path: str, name: str, models: SharedModels, batcher: DeviceBatcher, cost: CostModel
    ) -> None:
        self._path = path
        self._name = name
        self._models = models
        self._batcher = batcher
        self._cost = cost
        self._server: asyncio.Server | None = None
        self._sessions: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Starts to listen. Raises OSError if the socket cannot be bound."""
        self._server = await asyncio.start_unix_server(self._serve_worker, self._path, limit=READ_BUFFER)
        return self

    async def __aexit__(self, *error: object) -> None:
        """Stops listening and ends all sessions."""
        if self._server is not None:
            self._server.close()
        for session in list(self._sessions):
            await stop(session)

    async def _serve_worker(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = _Session(writer, self._name, self._models, self._batcher, self._cost)
        task = asyncio.create_task(session.run(reader), name="session")
        log_task_failure(task, "worker session failed")
        self._sessions.add(task)
        task.add_done_callback(self._sessions.discard)


class _Session:
    """The connection of one worker. Its models and regions are released when the connection ends."""

    def __init__(
        self,
        writer: asyncio.StreamWriter,
        name: str,
        models: SharedModels,
        batcher: DeviceBatcher,
        cost: CostModel,
    ) -> None:
        self._writer = writer
        self._name = name
        self._shared = models
        self._batcher = batcher
        self._cost = cost
        self._models: dict[int, SharedModel] = {}
        self._tables: dict[int, tuple[SharedModel, Region]] = {}
        self._last_number = 0
        self._calls: set[asyncio.Task[None]] = set()
        self._handlers: Mapping[FrameKind, Callable[[Sequence[Part]], Awaitable[Result]]] = {
            FrameKind.HELLO: self._hello,
            FrameKind.LOAD: self._load,
            FrameKind.ALLOCATE: self._allocate,
            FrameKind.ENCODE: self._encode,
            FrameKind.WARM: self._warm,
            FrameKind.SCORE: self._score,
            FrameKind.EXPLAIN: self._explain,
        }

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Executes calls until the worker disconnects or sends a frame that cannot be read."""
        try:
            while (frame := await read_frame(reader)) is not None:
                self._handle(frame)
        except ProtocolError as error:
            log.error("worker sent an unreadable frame; disconnecting", error=str(error))
        finally:
            self._writer.transport.abort()
            for task in list(self._calls):
                await stop(task)
            for model, region in self._tables.values():
                model.release(region)
            self._tables.clear()
            self._models.clear()

    def _handle(self, frame: Frame) -> None:
        if frame.kind is FrameKind.FREE_MODEL:
            self._models.pop(_number(frame.parts), None)
        elif frame.kind is FrameKind.FREE_TABLE:
            model, region = self._tables.pop(_number(frame.parts))
            model.release(region)
        else:
            task = asyncio.create_task(self._answer(frame))
            log_task_failure(task, "worker call failed without an answer")
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)

    async def _answer(self, frame: Frame) -> None:
        kind = FrameKind.DONE
        try:
            parts: Result = await self._handlers[frame.kind](frame.parts)
        except asyncio.CancelledError:
            if was_cancelled():
                raise
            kind, parts = (
                FrameKind.FAILED,
                encode_error(DeviceFault("the work was cancelled in the device process")),
            )
        except Exception as error:  # every error must reach the worker's call
            kind, parts = FrameKind.FAILED, encode_error(error)
        self._writer.write(to_bytes(kind, frame.call, *parts))

    async def _hello(self, parts: Sequence[Part]) -> Result:
        if _number(parts) != VERSION:
            raise DeviceFault(f"the device process supports only version {VERSION} of the protocol")
        return [self._name]

    async def _load(self, parts: Sequence[Part]) -> Result:
        (version,) = parts
        model = await self._shared.load(text(version))
        number = self._next_number()
        self._models[number] = model
        return [np.array([number, model.model.compiled], np.int64)]

    async def _allocate(self, parts: Sequence[Part]) -> Result:
        (request,) = parts
        model_number, capacity, source_number, rows = integers(request, 4).tolist()
        model = self._models[model_number]
        _, source = self._tables[source_number] if source_number >= 0 else (None, None)
        region = await model.reserve(capacity, source, rows)
        number = self._next_number()
        self._tables[number] = model, region
        return [np.array([number], np.int64)]

    async def _encode(self, parts: Sequence[Part]) -> Result:
        target, posts, image, caption = parts
        table, first = integers(target, 2).tolist()
        post_rows = integers(posts)
        model, region = self._tables[table]
        received = ReceivedEmbeddings(halves(image, len(post_rows)), halves(caption, len(post_rows)))
        return [np.array([await model.encode(region, first, post_rows, received)])]

    async def _warm(self, parts: Sequence[Part]) -> Result:
        table, sizes = parts
        model, _ = self._tables[_number([table])]
        await model.warm(integers(sizes).tolist(), self._cost)
        return ()

    async def _score(self, parts: Sequence[Part]) -> Result:
        table, due, users, counts, posts = parts
        model, region = self._tables[_number([table])]
        (deadline,) = doubles(due, 1).tolist()
        user_rows, rows = integers(users), integers(posts)
        sizes = integers(counts, len(user_rows))
        if sizes.min(initial=0) < 0 or sizes.sum() != len(rows):
            raise ProtocolError("the sizes do not add up to the number of rows")
        # Copied because PyTorch needs aligned memory, and a part of a frame may start anywhere.
        request = model.request(region, user_rows.copy(), sizes, rows, deadline)
        if deadline == math.inf:
            return [await self._batcher.execute_background(request)]
        return [await self._batcher.submit(request, len(rows), request.key, deadline)]

    async def _explain(self, parts: Sequence[Part]) -> Result:
        source, due, posts, image, caption = parts
        model_number, user_row = integers(source, 2).tolist()
        (deadline,) = doubles(due, 1).tolist()
        post_rows = integers(posts)
        model = self._models[model_number].model
        require_rows("user_row", np.array([user_row]), model.manifest.dimensions.users)
        require_rows("post_rows", post_rows, model.manifest.dimensions.posts)
        received = ReceivedEmbeddings(halves(image, len(post_rows)), halves(caption, len(post_rows)))
        request = ExplainRequest(model, user_row, post_rows, post_rows, received, deadline)
        return [await self._batcher.submit(request, request.size, request.key, deadline)]

    def _next_number(self) -> int:
        self._last_number += 1
        return self._last_number


def _number(parts: Sequence[Part]) -> int:
    """The number of a frame whose only part is one int64."""
    (part,) = parts
    (number,) = integers(part, 1).tolist()
    return int(number)
