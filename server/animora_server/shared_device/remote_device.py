"""A worker's side of the shared device: an InferenceDevice that calls the device process."""

import asyncio
import time
import weakref
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Self, TypeVar

import numpy as np
import structlog

from animora_artifact import Artifact, Manifest
from animora_artifact.vocabulary import RowIndex
from animora_server.background import BackgroundLoop, Backoff
from animora_server.batching import Batcher, BatchObserver
from animora_server.errors import DeviceFault
from animora_server.inference.protocols import Embeddings
from animora_server.inference.requests import (
    TERMS,
    ExplainRequest,
    InferenceRequest,
    ScoreRequest,
    split_by_request,
)
from animora_server.shared_device.frame_connection import FrameConnection
from animora_server.shared_device.frames import (
    MAX_PART_BYTES,
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

HELLO_TIMEOUT = 5.0  # seconds for the first answer: the kernel accepts connections for a stopped process too
NOT_STARTED_ERRORS = (FileNotFoundError, ConnectionRefusedError)  # the device process is still starting
CHECK_INTERVAL = 1.0  # seconds between two checks of the connection
CONNECT_INTERVAL = 0.1  # seconds between two attempts to connect
TRIALS = 5  # measurements of a batch size, of which the fastest counts
TRIAL_TIMEOUT = 60.0  # seconds


class RemoteHandle:
    """A model or table in the device process, which is freed there when this object is garbage-collected."""

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
    """A table in the device process. See protocols.DeviceTable."""

    vectors: RemoteHandle
    rows: int


class RemoteDevice:
    """Calls the device process and reconnects after a lost connection. See InferenceDevice.

    Args:
        path: The path of the device process' socket.
        on_loss: Called when the connection is lost, and with it all models and tables of this worker.

    Attributes:
        loop: Keeps the connection.
    """

    def __init__(self, path: str, on_loss: Callable[[], object]) -> None:
        self._path = path
        self._on_loss = on_loss
        self._connection: FrameConnection | None = None
        self._connected = asyncio.Event()
        self._name = "another process' device"
        self.loop = BackgroundLoop("device-connection", self._connect, backoff=Backoff(first=0.05))

    def __str__(self) -> str:
        return self._name

    async def __aenter__(self) -> Self:
        """Starts connecting."""
        self.loop.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        """Disconnects."""
        await self.loop.stop()

    @property
    def away(self) -> str | None:
        """Why calls would fail now; None while connected."""
        return None if self._connected.is_set() else "the device process is away"

    def give_up(self, why: str) -> None:
        """Disconnects, so that all waiting calls fail, and connects again."""
        if self._connection is not None:
            self._connection.close(why)

    async def load(self, artifact: Artifact) -> RemoteModel:
        """Makes the device process load the version from the store. Waits for a connection.

        Raises:
            ArtifactRejected: The version must not serve.
            ArtifactError: The store does not have the version, or the device process cannot read it.
            DeviceFault: The connection was lost.
        """
        await self._connected.wait()
        connection = self._connection
        if connection is None:
            raise DeviceFault("the connection to the device process was lost")
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
        """See InferenceDevice."""
        source_number, rows = (-1, 0) if source is None else (source.vectors.number, source.rows)
        connection = model.network.connection
        request = np.array([model.network.number, capacity, source_number, rows], np.int64)
        (answer,) = await connection.call(FrameKind.ALLOCATE, request)
        (number,) = integers(answer, 1).tolist()
        return RemoteTable(RemoteHandle(connection, number, FrameKind.FREE_TABLE), rows)

    async def encode(
        self, model: RemoteModel, post_rows: IntArray, embeddings: Embeddings, table: RemoteTable
    ) -> tuple[RemoteTable, float]:
        """See InferenceDevice. Posts are sent in pieces, so that no part exceeds MAX_PART_BYTES."""
        dimensions = model.manifest.dimensions
        rows_per_call = max(MAX_PART_BYTES // (2 * max(dimensions.image, dimensions.caption, 1)), 1)
        total = 0.0
        for start in range(0, len(post_rows), rows_per_call):
            piece = post_rows[start : start + rows_per_call]
            stop = table.rows + len(piece)
            features = await _features(model, embeddings.read, table.rows, stop)
            target = np.array([table.vectors.number, table.rows], np.int64)
            (answer,) = await model.network.connection.call(FrameKind.ENCODE, target, piece, *features)
            (seconds,) = doubles(answer, 1).tolist()
            table, total = replace(table, rows=stop), total + seconds
        return table, total

    async def warm(self, model: RemoteModel, table: RemoteTable, sizes: Sequence[int]) -> tuple[float, float]:
        """See InferenceDevice. The measured seconds include the round trip to the device process."""
        target = np.array([table.vectors.number], np.int64)
        await model.network.connection.call(FrameKind.WARM, target, np.array(sizes, np.int64))
        least, most = [await self._time(model, table, size) for size in (sizes[0], sizes[-1])]
        return least, max(most - least, 0.0) / max(sizes[-1] - sizes[0], 1)

    async def score(self, requests: Sequence[InferenceRequest]) -> list[FloatArray]:
        """See InferenceDevice. Without a deadline the request is background work in the device process."""
        scored = [request for request in requests if isinstance(request, ScoreRequest)]
        if scored:  # a batch has one key and therefore one kind of request
            return await self._score(scored)
        return [await self._explain(request) for request in requests if isinstance(request, ExplainRequest)]

    def score_inline(self, requests: Sequence[InferenceRequest]) -> None:
        """Always None: another process executes the batch."""

    async def _score(self, requests: Sequence[ScoreRequest]) -> list[FloatArray]:
        request = ScoreRequest.concatenated(requests)
        table: RemoteTable = request.table
        (answer,) = await table.vectors.connection.call(
            FrameKind.SCORE,
            np.array([table.vectors.number], np.int64),
            np.array([request.deadline]),
            request.user_rows,
            request.sizes,
            request.rows,
        )
        return split_by_request(floats(answer, len(request.rows)), requests)

    async def _explain(self, request: ExplainRequest) -> FloatArray:
        model: RemoteModel = request.model
        features = await _features(model, request.embeddings.take, request.rows)
        (answer,) = await model.network.connection.call(
            FrameKind.EXPLAIN,
            np.array([model.network.number, request.user_row], np.int64),
            np.array([request.deadline]),
            request.post_rows,
            *features,
        )
        return floats(answer, len(request.rows) * TERMS).reshape(-1, TERMS)

    async def _time(self, model: RemoteModel, table: RemoteTable, size: int) -> float:
        """The least seconds of TRIALS round trips that score a batch of `size` pairs."""
        deadline = (
            asyncio.get_running_loop().time() + TRIAL_TIMEOUT
        )  # without one it would be background work
        request = ScoreRequest.for_user(model.network, table, 0, np.zeros(size, np.int64), deadline)
        trials = []
        for _ in range(TRIALS):
            started = time.perf_counter()
            await self.score([request])
            trials.append(time.perf_counter() - started)
        return min(trials)

    async def _connect(self) -> float:
        """Connects, and returns after the connection has ended."""
        try:
            connection, self._name = await _connect(self._path)
        except NOT_STARTED_ERRORS:
            return CONNECT_INTERVAL
        await self._hold(connection)
        return 0.0

    async def _hold(self, connection: FrameConnection) -> None:
        self._connection = connection
        self._connected.set()
        log.info("connected to the device process", device=self._name)
        try:
            while not await connection.ended_within(CHECK_INTERVAL):
                self.loop.succeeded()
            log.error("connection to the device process lost; reconnecting")
        finally:
            self._connected.clear()
            self._connection = None
            await connection.aclose()
            self._on_loss()


async def _features(
    model: RemoteModel, read: Callable[..., tuple[HalfArray, HalfArray]], *rows: object
) -> tuple[HalfArray, HalfArray]:
    """Image and caption embeddings, of width 0 where the model takes none. In a thread: reading may block."""
    image, caption = await asyncio.to_thread(read, *rows)
    dimensions = model.manifest.dimensions
    return image[:, : dimensions.image], caption[:, : dimensions.caption]


async def _connect(path: str) -> tuple[FrameConnection, str]:
    """Connects and exchanges HELLO. Returns the connection and the device's name."""
    connection = await FrameConnection.open(path)
    try:
        async with asyncio.timeout(HELLO_TIMEOUT):
            (name,) = await connection.call(FrameKind.HELLO, np.array([VERSION], np.int64))
            return connection, text(name)
    except BaseException:
        await connection.aclose()
        raise


class SharedQueue:
    """A worker's queue for a shared device. See protocols.Queue.

    Background work bypasses the worker's batcher: it waits in the device process' background queue.

    Args:
        batcher: The worker's batcher, for requests with a deadline.
        execute: Executes a batch on the device.
    """

    def __init__(
        self,
        batcher: Batcher[InferenceRequest, FloatArray],
        execute: Callable[[Sequence[InferenceRequest]], Awaitable[Sequence[FloatArray]]],
    ) -> None:
        self._batcher = batcher
        self._execute = execute

    def submit(
        self, request: InferenceRequest, rows: int, key: Hashable, deadline: float
    ) -> "asyncio.Future[FloatArray]":
        """See batching.Batcher."""
        return self._batcher.submit(request, rows, key, deadline)

    async def run_background(self, turn: Callable[[], Awaitable[Value]]) -> Value:
        """Runs the turn at once; the device process schedules the calls that it makes."""
        return await turn()

    async def execute_background(self, request: InferenceRequest) -> FloatArray:
        """Sends the request at once; the device process schedules it."""
        (result,) = await self._execute([request])
        return result


class QueueObserver:
    """A BatchObserver of a worker's queue: executed batches are counted in the device process instead."""

    def __init__(self, observer: BatchObserver) -> None:
        self.skipped = observer.skipped
        self.faulted = observer.faulted
        self.waited = observer.waited

    def executed(self, rows: int, requests: int, seconds: float) -> None:
        """Does nothing: the device process counts the batch."""
