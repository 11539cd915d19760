"""The device process' side of its socket: workers come, have their rows scored, and go."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Self, TypeAlias

import numpy as np
import numpy.typing as npt
import structlog

from animora_artifact.checked import require_rows
from animora_server.background import log_task_failure, stop, was_cancelled
from animora_server.batching import CostModel
from animora_server.errors import DeviceFault, ProtocolError
from animora_server.inference.requests import ExplainRequest
from animora_server.shared_device.error_codec import encode_error
from animora_server.shared_device.frames import (
    VERSION,
    Frame,
    FrameKind,
    Part,
    doubles,
    halves,
    integers,
    read_frame,
    text,
    to_bytes,
)
from animora_server.shared_device.shared_models import (
    DeviceBatcher,
    Received,
    Region,
    SharedModel,
    SharedModels,
)

log = structlog.get_logger(__name__)

READ_AHEAD = 1 << 20  # bytes

Answer: TypeAlias = Sequence[npt.NDArray[np.generic] | str]


class DeviceServer:
    """Listens for workers, an async context manager.

    Args:
        path: Of the socket, in a folder that only this user can enter.
        name: The device's.
        models: What workers may have.
        batcher: The device's queue.
        cost: What it learns of the device.
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
        """Listens. Raises OSError if it cannot."""
        self._server = await asyncio.start_unix_server(self._attend, self._path, limit=READ_AHEAD)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops to listen, and ends all sessions."""
        if self._server is not None:
            self._server.close()
        for session in list(self._sessions):
            await stop(session)

    async def _attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = _Session(writer, self._name, self._models, self._batcher, self._cost)
        task = asyncio.create_task(session.run(reader), name="session")
        log_task_failure(task, "a worker is not answered any more")
        self._sessions.add(task)
        task.add_done_callback(self._sessions.discard)


class _Session:
    """One worker. What it holds is let go of when it has gone, however it went."""

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
        self._numbers = 0
        self._answering: set[asyncio.Task[None]] = set()
        self._behaviours: Mapping[FrameKind, Callable[[Sequence[Part]], Awaitable[Answer]]] = {
            FrameKind.HELLO: self._hello,
            FrameKind.LOAD: self._load,
            FrameKind.ALLOCATE: self._allocate,
            FrameKind.ENCODE: self._encode,
            FrameKind.WARM: self._warm,
            FrameKind.SCORE: self._score,
            FrameKind.EXPLAIN: self._explain,
        }

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Answers until the worker has gone, or sends what cannot be read."""
        try:
            while (frame := await read_frame(reader)) is not None:
                self._take(frame)
        except ProtocolError as error:
            log.error("a worker cannot be understood", error=str(error))
        finally:
            self._writer.transport.abort()
            for task in list(self._answering):
                await stop(task)
            for model, region in self._tables.values():
                model.release(region)
            self._tables.clear()
            self._models.clear()

    def _take(self, frame: Frame) -> None:
        if frame.kind is FrameKind.FREE_MODEL:
            self._models.pop(_number(frame.parts), None)
        elif frame.kind is FrameKind.FREE_TABLE:
            model, region = self._tables.pop(_number(frame.parts))
            model.release(region)
        else:
            task = asyncio.create_task(self._answer(frame))
            log_task_failure(task, "a worker's question is not answered")
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    async def _answer(self, frame: Frame) -> None:
        kind = FrameKind.DONE
        try:
            parts: Answer = await self._behaviours[frame.kind](frame.parts)
        except asyncio.CancelledError:
            if was_cancelled():
                raise
            kind, parts = (
                FrameKind.FAILED,
                encode_error(DeviceFault("the work was cancelled in the device process")),
            )
        except Exception as error:  # whatever it is must reach whoever asked
            kind, parts = FrameKind.FAILED, encode_error(error)
        self._writer.write(to_bytes(kind, frame.call, *parts))

    async def _hello(self, parts: Sequence[Part]) -> Answer:
        if _number(parts) != VERSION:
            raise DeviceFault(f"the device process knows version {VERSION} of the messages, no other")
        return [self._name]

    async def _load(self, parts: Sequence[Part]) -> Answer:
        (version,) = parts
        model = await self._shared.load(text(version))
        number = self._next_number()
        self._models[number] = model
        return [np.array([number, model.model.compiled], np.int64)]

    async def _allocate(self, parts: Sequence[Part]) -> Answer:
        (request,) = parts
        of, capacity, at, rows = integers(request, 4).tolist()
        model = self._models[of]
        _, source = self._tables[at] if at >= 0 else (None, None)
        region = await model.reserve(capacity, source, rows)
        number = self._next_number()
        self._tables[number] = model, region
        return [np.array([number], np.int64)]

    async def _encode(self, parts: Sequence[Part]) -> Answer:
        where, posts, image, caption = parts
        table, first = integers(where, 2).tolist()
        post_rows = integers(posts)
        model, region = self._tables[table]
        received = Received(halves(image, len(post_rows)), halves(caption, len(post_rows)))
        return [np.array([await model.encode(region, first, post_rows, received)])]

    async def _warm(self, parts: Sequence[Part]) -> Answer:
        table, sizes = parts
        model, _ = self._tables[_number([table])]
        await model.warm(integers(sizes).tolist(), self._cost)
        return ()

    async def _score(self, parts: Sequence[Part]) -> Answer:
        table, until, users, counts, posts = parts
        model, region = self._tables[_number([table])]
        (deadline,) = doubles(until, 1).tolist()
        user_rows, rows = integers(users), integers(posts)
        sizes = integers(counts, len(user_rows))
        if sizes.min(initial=0) < 0 or sizes.sum() != len(rows):
            raise ProtocolError("the sizes are not those of the rows")
        # A part of a message may lie anywhere; PyTorch wants numbers that are aligned.
        work = model.work(region, user_rows.copy(), sizes, rows, deadline)
        if deadline == math.inf:
            return [await self._batcher.execute_background(work)]
        return [await self._batcher.submit(work, len(rows), work.key, deadline)]

    async def _explain(self, parts: Sequence[Part]) -> Answer:
        where, until, posts, image, caption = parts
        of, user_row = integers(where, 2).tolist()
        (deadline,) = doubles(until, 1).tolist()
        post_rows = integers(posts)
        model = self._models[of].model
        require_rows("user_row", np.array([user_row]), model.manifest.dimensions.users)
        require_rows("post_rows", post_rows, model.manifest.dimensions.posts)
        received = Received(halves(image, len(post_rows)), halves(caption, len(post_rows)))
        work = ExplainRequest(model, user_row, post_rows, post_rows, received, deadline)
        return [await self._batcher.submit(work, work.size, work.key, deadline)]

    def _next_number(self) -> int:
        self._numbers += 1
        return self._numbers


def _number(parts: Sequence[Part]) -> int:
    """The one number that is all of a message's parts."""
    (part,) = parts
    (number,) = integers(part, 1).tolist()
    return int(number)
