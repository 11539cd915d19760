"""A worker's side of the shared device: an InferenceDevice that calls the device process."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import structlog

from animora_artifact import Artifact, Manifest
from animora_artifact.vocabulary import RowIndex
from animora_server.background import BackgroundLoop, Backoff, LoopOwner
from animora_server.batching import Batcher, BatchObserver
from animora_server.batching.background_turns import execute_timed
from animora_server.inference.protocols import Embeddings
from animora_server.inference.requests import (
    TERMS,
    ExplainRequest,
    InferenceRequest,
    ScoreRequest,
    split_by_request,
)
from animora_server.shared_device.connection import DeviceConnection, RemoteHandle
from animora_server.shared_device.messages import DEVICE, MAX_BYTES, VERSION
from animora_server.types import FloatArray, HalfArray, IntArray

Value = TypeVar("Value")

log = structlog.get_logger(__name__)

HELLO_TIMEOUT = 5.0  # seconds for the first answer: the kernel accepts connections for a stopped process too
NOT_STARTED_ERRORS = (FileNotFoundError, ConnectionRefusedError)  # the device process is still starting
CHECK_INTERVAL = 1.0  # seconds between two checks of the connection
CONNECT_INTERVAL = 0.1  # seconds between two attempts to connect
TRIALS = 5  # measurements of a batch size, of which the fastest counts
TRIAL_TIMEOUT = 60.0  # seconds; a request without a deadline would be background work


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


class RemoteDevice(LoopOwner):
    """Calls the device process and reconnects after a lost connection. See InferenceDevice.

    Args:
        path: The path of the device process' socket.
        on_loss: Called when the connection is lost, and with it all models and tables of this worker.
        max_embedding_bytes: The most bytes of image or caption embeddings in one message.

    Attributes:
        loop: Keeps the connection.
    """

    def __init__(
        self, path: str, on_loss: Callable[[], object], max_embedding_bytes: int = MAX_BYTES // 4
    ) -> None:
        self._path = path
        self._on_loss = on_loss
        self._max_embedding_bytes = max_embedding_bytes
        self._connection: DeviceConnection | None = None  # the current or the last one
        self._connected = asyncio.Event()
        self._name = "another process' device"
        self.loop = BackgroundLoop("device-connection", self._keep_connection, backoff=Backoff(first=0.05))

    def __str__(self) -> str:
        return self._name

    @property
    def is_connected(self) -> bool:
        """Whether the device process can be called."""
        return self._connected.is_set()

    def disconnect(self, why: str) -> None:
        """Ends the connection, so that all waiting calls raise DeviceFault, and connects again."""
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
        assert connection is not None  # it was connected
        number, compiled = await connection.call("load", DEVICE, artifact.manifest.version)
        users, posts = RowIndex(artifact.vocabulary.user_ids), RowIndex(artifact.vocabulary.post_ids)
        return RemoteModel(artifact.manifest, RemoteHandle(connection, number), users, posts, compiled)

    async def allocate(
        self, model: RemoteModel, capacity: int, source: RemoteTable | None = None
    ) -> RemoteTable:
        """See InferenceDevice."""
        if source is None:
            return RemoteTable(await model.network.create("allocate", capacity), 0)
        return RemoteTable(await source.vectors.create("enlarge", capacity, source.rows), source.rows)

    async def encode(
        self, model: RemoteModel, post_rows: IntArray, embeddings: Embeddings, table: RemoteTable
    ) -> tuple[RemoteTable, float]:
        """See InferenceDevice. Posts are sent in pieces of at most `max_embedding_bytes` an embedding."""
        width = max(model.manifest.dimensions.image, model.manifest.dimensions.caption, 1)
        rows_per_call = max(self._max_embedding_bytes // (2 * width), 1)
        total = 0.0
        for start in range(0, len(post_rows), rows_per_call):
            piece = post_rows[start : start + rows_per_call]
            stop = table.rows + len(piece)
            features = await _features(model, embeddings.read, table.rows, stop)
            (seconds,) = await table.vectors.call("encode", table.rows, piece, *features)
            table, total = replace(table, rows=stop), total + seconds
        return table, total

    async def warm(self, model: RemoteModel, table: RemoteTable, sizes: Sequence[int]) -> tuple[float, float]:
        """See InferenceDevice. The measured seconds include the round trip to the device process."""
        await model.network.call("warm", np.array(sizes, np.int64))
        least, most = [await self._time(model, table, size) for size in (sizes[0], sizes[-1])]
        return least, max(most - least, 0.0) / max(sizes[-1] - sizes[0], 1)

    async def score(self, requests: Sequence[InferenceRequest]) -> list[FloatArray]:
        """See InferenceDevice. Without a deadline the request is background work in the device process."""
        scored = [request for request in requests if isinstance(request, ScoreRequest)]
        if not scored:  # a batch has one key and therefore one kind of request
            return [await self._explain(each) for each in requests if isinstance(each, ExplainRequest)]
        batch = ScoreRequest.concatenated(scored)
        table: RemoteHandle = batch.table.vectors
        (logits,) = await table.call("score", batch.deadline, batch.user_rows, batch.sizes, batch.rows)
        return split_by_request(logits, scored)

    def score_inline(self, requests: Sequence[InferenceRequest]) -> None:
        """Always None: another process executes the batch."""

    async def _explain(self, request: ExplainRequest) -> FloatArray:
        model: RemoteModel = request.model
        features = await _features(model, request.embeddings.take, request.rows)
        arguments = request.user_row, request.deadline, request.post_rows
        terms: FloatArray
        (terms,) = await model.network.call("explain", *arguments, *features)
        return terms.reshape(-1, TERMS)

    async def _time(self, model: RemoteModel, table: RemoteTable, size: int) -> float:
        """The least seconds of TRIALS round trips that score a batch of `size` pairs."""
        deadline = asyncio.get_running_loop().time() + TRIAL_TIMEOUT
        request = ScoreRequest.for_user(model.network, table, 0, np.zeros(size, np.int64), deadline)
        trials = []
        for _ in range(TRIALS):
            started = time.perf_counter()
            await self.score([request])
            trials.append(time.perf_counter() - started)
        return min(trials)

    async def _keep_connection(self) -> float:
        """Connects, and returns after the connection has ended."""
        try:
            connection = await DeviceConnection.open(self._path)
        except NOT_STARTED_ERRORS:
            return CONNECT_INTERVAL
        try:
            async with asyncio.timeout(HELLO_TIMEOUT):
                (self._name,) = await connection.call("hello", DEVICE, VERSION)
            self._connection = connection
            self._connected.set()
            log.info("connected to the device process", device=self._name)
            while not await connection.ended_within(CHECK_INTERVAL):
                self.loop.succeeded()
            log.error("connection to the device process lost; reconnecting")
        finally:
            await connection.aclose()
            if self._connected.is_set():
                self._connected.clear()
                self._on_loss()
        return 0.0


async def _features(
    model: RemoteModel, read: Callable[..., tuple[HalfArray, HalfArray]], *rows: object
) -> tuple[HalfArray, HalfArray]:
    """Image and caption embeddings, of width 0 where the model takes none. In a thread: reading may block."""
    image, caption = await asyncio.to_thread(read, *rows)
    dimensions = model.manifest.dimensions
    return image[:, : dimensions.image], caption[:, : dimensions.caption]


@dataclass(frozen=True, slots=True)
class SharedQueue:
    """A worker's queue for a shared device. See protocols.Queue.

    Background work bypasses the worker's batcher: it waits in the device process' background queue.

    Attributes:
        batcher: The worker's batcher, for requests with a deadline.
        execute: Executes a batch on the device.
    """

    batcher: Batcher[InferenceRequest, FloatArray]
    execute: Callable[[Sequence[InferenceRequest]], Awaitable[Sequence[FloatArray]]]

    def submit(
        self, request: InferenceRequest, rows: int, key: Hashable, deadline: float
    ) -> "asyncio.Future[FloatArray]":
        """See batching.Batcher."""
        return self.batcher.submit(request, rows, key, deadline)

    async def run_background(self, turn: Callable[[], Awaitable[Value]]) -> Value:
        """Runs the turn at once; the device process schedules the calls that it makes."""
        return await turn()

    async def execute_background(self, request: InferenceRequest) -> tuple[FloatArray, float]:
        """Sends the request at once; the device process schedules it. The seconds are those of the call."""
        return await execute_timed(self.execute, request)


class QueueObserver:
    """A BatchObserver of a worker's queue: executed batches are counted in the device process instead."""

    def __init__(self, observer: BatchObserver) -> None:
        self.skipped = observer.skipped
        self.faulted = observer.faulted
        self.waited = observer.waited

    def executed(self, rows: int, requests: int, seconds: float) -> None:
        """Does nothing: the device process counts the batch."""
