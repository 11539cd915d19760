"""What the scorer asks of a device, wherever it is, and what a device gives to be named by."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from animora_artifact import Artifact, Manifest
from animora_artifact.vocabulary import RowIndex
from animora_server.types import FloatArray, HalfArray, IntArray

if TYPE_CHECKING:
    from animora_server.inference.requests import InferenceRequest

Value = TypeVar("Value")

# What only the device that made it understands; works that can share a batch have the same one.
OnDevice: TypeAlias = Any


class Model(Protocol):
    """A verified model on a device, not bound to any catalog."""

    @property
    def manifest(self) -> Manifest:
        """What it is."""
        ...

    @property
    def network(self) -> OnDevice:
        """Its weights."""
        ...

    @property
    def users(self) -> RowIndex:
        """Rows of users."""
        ...

    @property
    def posts(self) -> RowIndex:
        """Rows of posts."""
        ...

    @property
    def compiled(self) -> bool:
        """Whether compiled code scores, and not TorchScript."""
        ...


class DeviceTable(Protocol):
    """Post vectors on a device. Encoded rows never change; to grow is to be replaced by a larger copy."""

    @property
    def vectors(self) -> OnDevice:
        """The memory."""
        ...

    @property
    def rows(self) -> int:
        """How many are encoded."""
        ...


class Embeddings(Protocol):
    """Image and caption embeddings by row."""

    def read(self, start: int, stop: int) -> tuple[HalfArray, HalfArray]:
        """Image float16 (n, w) and caption float16 (n, v) of rows [start, stop)."""
        ...

    def take(self, rows: IntArray) -> tuple[HalfArray, HalfArray]:
        """The same of rows int64 (n)."""
        ...


class InferenceDevice(Protocol):
    """Runs models. See scorer.device.Device, of this process, and scorer.remote.RemoteDevice.

    A model or table is only for the device that gave it. Each method may raise DeviceFault.
    """

    async def load(self, artifact: Artifact) -> Model:
        """Loads a version beside those that serve. Raises ArtifactRejected if it must not serve."""
        ...

    async def allocate(self, model: OnDevice, capacity: int, source: OnDevice | None = None) -> DeviceTable:
        """An empty table of so many rows, or one that begins with the rows of another."""
        ...

    async def encode(
        self, model: OnDevice, post_rows: IntArray, embeddings: Embeddings, table: OnDevice
    ) -> tuple[DeviceTable, float]:
        """Appends the vectors of post_rows int64 (n); the longer table, and the seconds that it took."""
        ...

    async def warm(self, model: OnDevice, table: OnDevice, sizes: Sequence[int]) -> tuple[float, float]:
        """Runs every batch size twice; the seconds of a batch, and of each of its rows."""
        ...

    async def score(self, works: "Sequence[InferenceRequest]") -> list[FloatArray]:
        """Runs the works of one batch, which share a key; results in the same order."""
        ...

    def score_inline(self, works: "Sequence[InferenceRequest]") -> list[FloatArray] | None:
        """The same then and there; None where that would hold the event loop up."""
        ...


class Queue(Protocol):
    """Where work waits for a device. See batching.Batcher."""

    def submit(
        self, work: "InferenceRequest", rows: int, key: Hashable, deadline: float
    ) -> "asyncio.Future[FloatArray]":
        """Queues work that is of no more use after a deadline, on the event loop's clock."""
        ...

    async def run_background(self, turn: Callable[[], Awaitable[Value]]) -> Value:
        """Runs one short turn of work that can wait."""
        ...

    async def execute_background(self, work: "InferenceRequest") -> FloatArray:
        """Executes one short piece of work that can wait."""
        ...
