"""The interface of an inference device, local or shared, of its models and tables, and of its queue."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from animora_artifact import Artifact, Manifest
from animora_artifact.vocabulary import RowIndex
from animora_server.types import FloatArray, HalfArray, IntArray

if TYPE_CHECKING:
    from animora_server.inference.requests import InferenceRequest

Value = TypeVar("Value")

# An object that only its own device understands. Requests can share a batch if theirs is the same object.
OnDevice: TypeAlias = Any


class Model(Protocol):
    """A verified model on a device, not encoded for any catalog."""

    @property
    def manifest(self) -> Manifest:
        """The version's manifest."""
        ...

    @property
    def network(self) -> OnDevice:
        """The network, or a handle of it."""
        ...

    @property
    def users(self) -> RowIndex:
        """Vocabulary rows of user ids."""
        ...

    @property
    def posts(self) -> RowIndex:
        """Vocabulary rows of post ids."""
        ...

    @property
    def compiled(self) -> bool:
        """Whether native code scores instead of TorchScript."""
        ...


class DeviceTable(Protocol):
    """A table of post vectors on a device. Encoded rows never change; a larger copy replaces a full table."""

    @property
    def vectors(self) -> OnDevice:
        """The memory, or a handle of it."""
        ...

    @property
    def rows(self) -> int:
        """How many rows are encoded."""
        ...


class Embeddings(Protocol):
    """Image and caption embeddings by row."""

    def read(self, start: int, stop: int) -> tuple[HalfArray, HalfArray]:
        """Image float16 (n, w) and caption float16 (n, v) embeddings of rows [start, stop)."""
        ...

    def take(self, rows: IntArray) -> tuple[HalfArray, HalfArray]:
        """Image float16 (n, w) and caption float16 (n, v) embeddings of rows int64 (n)."""
        ...


class InferenceDevice(Protocol):
    """Executes models: inference.device.Device in this process, or shared_device.remote_device.RemoteDevice.

    A model or table works only with the device that returned it. Each method may raise DeviceFault.
    """

    async def load(self, artifact: Artifact) -> Model:
        """Loads a version while other versions serve. Raises ArtifactRejected if it must not serve."""
        ...

    async def allocate(self, model: OnDevice, capacity: int, source: OnDevice | None = None) -> DeviceTable:
        """Allocates a table with room for `capacity` rows; it begins with the rows of `source`, if given."""
        ...

    async def encode(
        self, model: OnDevice, post_rows: IntArray, embeddings: Embeddings, table: OnDevice
    ) -> tuple[DeviceTable, float]:
        """Appends the vectors of post_rows int64 (n). Returns the longer table and the seconds it took."""
        ...

    async def warm(self, model: OnDevice, table: OnDevice, sizes: Sequence[int]) -> tuple[float, float]:
        """Executes every batch size twice. Returns the seconds of a batch and of each further row."""
        ...

    async def score(self, requests: "Sequence[InferenceRequest]") -> list[FloatArray]:
        """Executes one batch of requests that share a key. Returns their results in the same order."""
        ...

    def score_inline(self, requests: "Sequence[InferenceRequest]") -> list[FloatArray] | None:
        """Executes one batch on the calling thread; None if it would block the event loop for too long."""
        ...


class Queue(Protocol):
    """The queue of a device. See batching.Batcher."""

    def submit(
        self, request: "InferenceRequest", rows: int, key: Hashable, deadline: float
    ) -> "asyncio.Future[FloatArray]":
        """Queues a request, which is skipped after its deadline (the event loop's clock)."""
        ...

    async def run_background(self, turn: Callable[[], Awaitable[Value]]) -> Value:
        """Runs one short turn of background work between batches."""
        ...

    async def execute_background(self, request: "InferenceRequest") -> tuple[FloatArray, float]:
        """Executes one short request without a deadline, between batches; also returns its seconds."""
        ...
