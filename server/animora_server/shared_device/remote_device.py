"""A device in another process, which several workers share: what a worker has in place of its own."""

import asyncio
import time
import weakref
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self, TypeVar

import numpy as np
import structlog

from animora_artifact import Artifact, Manifest
from animora_artifact.vocabulary import RowIndex
from animora_server.background import BackgroundLoop, Backoff
from animora_server.batching import Batcher, BatchObserver
from animora_server.errors import DeviceFault
from animora_server.inference.protocols import Embeddings
from animora_server.inference.requests import ExplainRequest, InferenceRequest, ScoreRequest, split_scores
from animora_server.inference.terms import TERMS
from animora_server.shared_device.frame_connection import FrameConnection
from animora_server.shared_device.frames import (
    LARGEST_PART,
    VERSION,
    FrameKind,
    doubles,
    floats,
    integers,
    text,
)
from animora_server.types import FloatArray, HalfArray, IntArray

Value = TypeVar("Value")

log = structlog.get_logger(__name__)

GREETING_TIMEOUT = 5.0  # seconds for the first answer: a process that is stopped takes connections too
NOT_THERE_YET = (FileNotFoundError, ConnectionRefusedError)  # the device process is being started
LOOK_INTERVAL = 1.0  # seconds between looks at whether the connection lasts
CONNECT_INTERVAL = 0.1  # seconds between attempts until it is there
TRIALS, TRIAL_TIMEOUT = 5, 60.0


class RemoteHandle:
    """Something in the device process, which is freed there when nobody holds this any more."""

    __slots__ = ("__weakref__", "connection", "number")

    def __init__(self, connection: FrameConnection, number: int, freed_by: FrameKind) -> None:
        self.connection = connection
        self.number = number
        weakref.finalize(self, connection.notify, freed_by, number).atexit = False


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """A model in the device process. See protocols.Model."""

    manifest: Manifest
    network: RemoteHandle
    users: RowIndex
    posts: RowIndex
    compiled: bool


@dataclass(frozen=True, slots=True)
class RemoteTable:
    """A table in the device process. See protocols.Table."""

    vectors: RemoteHandle
    rows: int


class RemoteDevice:
    """Asks the device process, to which it connects again whenever it has gone. See protocols.Device.

    Args:
        path: Of the device process' socket.
        on_loss: Called when what was loaded and encoded has gone, with the process or the connection.
    """

    def __init__(self, path: str, on_loss: Callable[[], object]) -> None:
        self._path = path
        self._on_loss = on_loss
        self._connection: FrameConnection | None = None
        self._there = asyncio.Event()
        self._name = "another process' device"
        self.loop = BackgroundLoop("device-connection", self._connect, backoff=Backoff(first=0.05))

    def __str__(self) -> str:
        return self._name

    async def __aenter__(self) -> Self:
        """Starts to connect."""
        self.loop.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnects."""
        await self.loop.stop()

    @property
    def away(self) -> str | None:
        """Why it cannot be asked, or None."""
        return None if self._there.is_set() else "the device process is away"

    def give_up(self, why: str) -> None:
        """Disconnects, so that nobody waits for an answer any more, and connects again."""
        if self._connection is not None:
            self._connection.close(why)

    async def load(self, artifact: Artifact) -> RemoteModel:
        """Has the device process load the version from the store; waits for the process.

        Raises:
            ArtifactRejected: It must not serve.
            ArtifactError: The device process does not find it, or cannot read the store.
            DeviceFault: The process has gone.
        """
        await self._there.wait()
        connection = self._connection
        if connection is None:
            raise DeviceFault("the device process has gone")
        (answer,) = await connection.call(FrameKind.LOAD, artifact.manifest.version)
        number, compiled = integers(answer, 2).tolist()
        return RemoteModel(
            artifact.manifest,
            RemoteHandle(connection, number, FrameKind.FREE_MODEL),
            RowIndex(artifact.vocabulary.user_ids),
            RowIndex(artifact.vocabulary.post_ids),
            bool(compiled),
        )

    async def allocate(
        self, model: RemoteModel, capacity: int, source: RemoteTable | None = None
    ) -> RemoteTable:
        """An empty table of so many rows, or one that begins with the rows of another."""
        at, rows = (-1, 0) if source is None else (source.vectors.number, source.rows)
        connection = model.network.connection
        request = np.array([model.network.number, capacity, at, rows], np.int64)
        (answer,) = await connection.call(FrameKind.ALLOCATE, request)
        (number,) = integers(answer, 1).tolist()
        return RemoteTable(RemoteHandle(connection, number, FrameKind.FREE_TABLE), rows)

    async def encode(
        self, model: RemoteModel, post_rows: IntArray, embeddings: Embeddings, table: RemoteTable
    ) -> tuple[RemoteTable, float]:
        """Appends the vectors of post_rows int64 (n); the longer table, and the seconds that it took."""
        dimensions = model.manifest.dimensions
        at_once = max(LARGEST_PART // (2 * max(dimensions.image, dimensions.caption, 1)), 1)
        total = 0.0
        for start in range(0, len(post_rows), at_once):
            piece = post_rows[start : start + at_once]
            stop = table.rows + len(piece)
            features = await _features(model, embeddings.read, table.rows, stop)
            where = np.array([table.vectors.number, table.rows], np.int64)
            (answer,) = await model.network.connection.call(FrameKind.ENCODE, where, piece, *features)
            (seconds,) = doubles(answer, 1).tolist()
            table, total = replace(table, rows=stop), total + seconds
        return table, total

    async def warm(self, model: RemoteModel, table: RemoteTable, sizes: Sequence[int]) -> tuple[float, float]:
        """Runs every batch size twice, and measures as it is seen from here."""
        where = np.array([table.vectors.number], np.int64)
        await model.network.connection.call(FrameKind.WARM, where, np.array(sizes, np.int64))
        least, most = [await self._time(model, table, size) for size in (sizes[0], sizes[-1])]
        return least, max(most - least, 0.0) / max(sizes[-1] - sizes[0], 1)

    async def score(self, works: Sequence[InferenceRequest]) -> list[FloatArray]:
        """Runs the works of one batch; those that have no deadline wait there for those that have one."""
        scored = [work for work in works if isinstance(work, ScoreRequest)]
        if scored:  # a batch has one key, and so one kind of work
            return await self._score(scored)
        return [await self._explain(work) for work in works if isinstance(work, ExplainRequest)]

    def score_inline(self, works: Sequence[InferenceRequest]) -> None:
        """Nothing is: another process does it."""

    async def _score(self, works: Sequence[ScoreRequest]) -> list[FloatArray]:
        work = ScoreRequest.joined(works)
        table: RemoteTable = work.table
        (answer,) = await table.vectors.connection.call(
            FrameKind.SCORE,
            np.array([table.vectors.number], np.int64),
            np.array([work.deadline]),
            work.user_rows,
            work.sizes,
            work.rows,
        )
        return split_scores(floats(answer, len(work.rows)), works)

    async def _explain(self, work: ExplainRequest) -> FloatArray:
        model: RemoteModel = work.model
        features = await _features(model, work.embeddings.take, work.rows)
        (answer,) = await model.network.connection.call(
            FrameKind.EXPLAIN,
            np.array([model.network.number, work.user_row], np.int64),
            np.array([work.deadline]),
            work.post_rows,
            *features,
        )
        return floats(answer, len(work.rows) * TERMS).reshape(-1, TERMS)

    async def _time(self, model: RemoteModel, table: RemoteTable, size: int) -> float:
        """Seconds from here to the scores of so many rows and back, at best."""
        deadline = asyncio.get_running_loop().time() + TRIAL_TIMEOUT  # as requests have one
        work = ScoreRequest.of_one(model.network, table, 0, np.zeros(size, np.int64), deadline)
        trials = []
        for _ in range(TRIALS):
            started = time.perf_counter()
            await self.score([work])
            trials.append(time.perf_counter() - started)
        return min(trials)

    async def _connect(self) -> float:
        """Connects, and stays connected for as long as the device process does."""
        try:
            connection, self._name = await _connect(self._path)
        except NOT_THERE_YET:
            return CONNECT_INTERVAL
        await self._until_lost(connection)
        return 0.0

    async def _until_lost(self, connection: FrameConnection) -> None:
        self._connection = connection
        self._there.set()
        log.info("the device process answers", device=self._name)
        try:
            while not await connection.ended_within(LOOK_INTERVAL):
                self.loop.succeeded()
            log.error("the device process has gone, or does not answer")
        finally:
            self._there.clear()
            self._connection = None
            await connection.aclose()
            self._on_loss()


async def _features(
    model: RemoteModel, read: Callable[..., tuple[HalfArray, HalfArray]], *rows: object
) -> tuple[HalfArray, HalfArray]:
    """Image and caption of rows, as far as the model takes them; from a file, which may wait for the disk."""
    image, caption = await asyncio.to_thread(read, *rows)
    dimensions = model.manifest.dimensions
    return image[:, : dimensions.image], caption[:, : dimensions.caption]


async def _connect(path: str) -> tuple[FrameConnection, str]:
    """A connection on which the device process has answered, and its device's name."""
    connection = await FrameConnection.open(path)
    try:
        async with asyncio.timeout(GREETING_TIMEOUT):
            (name,) = await connection.call(FrameKind.HELLO, np.array([VERSION], np.int64))
            return connection, text(name)
    except BaseException:
        await connection.aclose()
        raise


class SharedQueue:
    """A worker's queue for a device that others use too. See protocols.Queue.

    What can wait does so in the device process, so that it holds up no request here.
    """

    def __init__(
        self,
        batcher: Batcher[InferenceRequest, FloatArray],
        execute: Callable[[Sequence[InferenceRequest]], Awaitable[Sequence[FloatArray]]],
    ) -> None:
        self._batcher = batcher
        self._execute = execute

    def submit(
        self, work: InferenceRequest, rows: int, key: Hashable, deadline: float
    ) -> "asyncio.Future[FloatArray]":
        """See batching.Batcher."""
        return self._batcher.submit(work, rows, key, deadline)

    async def run_background(self, turn: Callable[[], Awaitable[Value]]) -> Value:
        """Runs it at once."""
        return await turn()

    async def execute_background(self, work: InferenceRequest) -> FloatArray:
        """Executes it at once."""
        (result,) = await self._execute([work])
        return result


class QueueObserver:
    """Is told what happens in a worker's queue; what is executed is counted in the device process."""

    def __init__(self, observer: BatchObserver) -> None:
        self.skipped = observer.skipped
        self.faulted = observer.faulted
        self.waited = observer.waited

    def executed(self, rows: int, works: int, seconds: float) -> None:
        """A batch was sent and answered."""
