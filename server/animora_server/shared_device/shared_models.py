"""The models of the device process: each version is loaded once, with one table of post vectors.

A batch holds requests of one model and one table. All workers share the table, so a batch may hold requests
of several workers. Each worker has a region of the table, because workers follow the database independently
and their catalog rows differ.
"""

import asyncio
import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeAlias
from weakref import WeakValueDictionary

import numpy as np

from animora_artifact import StoreUnavailable, VersionSource
from animora_artifact.checked import require_rows
from animora_server.batching import Batcher, CostModel
from animora_server.inference.device import Device
from animora_server.inference.loaded_model import LoadedModel, PostVectors
from animora_server.inference.requests import ExplainRequest, InferenceRequest, ScoreRequest
from animora_server.types import FloatArray, HalfArray, IntArray

DeviceBatcher: TypeAlias = Batcher[InferenceRequest, FloatArray]


@dataclass(frozen=True, slots=True)
class SharedModels:
    """The versions that workers hold, each loaded once and freed when the last worker releases it.

    Attributes:
        store: The model store; None if none is configured.
        device: The device to load onto.
        batcher: The device's queue.
        cost: The cost estimate of the device, calibrated when a model is warmed.
        workers: For how many regions a new table has room.
    """

    store: VersionSource | None
    device: Device
    batcher: DeviceBatcher
    cost: CostModel
    workers: int
    _models: "WeakValueDictionary[str, SharedModel]" = field(default_factory=WeakValueDictionary)
    _loading: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def load(self, version: str) -> "SharedModel":
        """Returns a version; reads and loads it if no worker holds it yet.

        Raises:
            ArtifactRejected: The version must not serve.
            ArtifactError: The store does not have the version, or cannot be read.
            DeviceFault: The device failed.
        """
        if self.store is None:
            raise StoreUnavailable("the device process has no model store")
        async with self._loading:
            model = self._models.get(version)
            if model is None:
                artifact = await asyncio.to_thread(self.store.read, version)
                model = self._models[version] = SharedModel(await self.device.load(artifact), self)
            return model


class SharedModel:
    """A loaded version with its table, in which each worker has a region.

    Attributes:
        loaded: The version.
        shared: The device and its queue.
        table_lock: Held to write to the table or to replace it.
    """

    def __init__(self, loaded: LoadedModel, shared: SharedModels) -> None:
        self.loaded = loaded
        self.shared = shared
        self.table_lock = asyncio.Lock()
        self._table: PostVectors | None = None
        self._regions: list[Region] = []  # ascending by start
        self._is_warm = False

    @property
    def table(self) -> PostVectors:
        """The table, which exists since the first region was allocated."""
        assert self._table is not None
        return self._table

    async def allocate(self, capacity: int) -> "Region":
        """Allocates a region of `capacity` rows; the table grows if needed. Raises DeviceFault."""
        async with self.table_lock:
            start = self._find_gap(capacity)
            size = 0 if self._table is None else len(self._table.vectors)
            if start + capacity > size:
                new_size = max(start + capacity, capacity * self.shared.workers, 2 * size)
                whole = self._table and replace(self._table, rows=size)
                self._table = await self.shared.device.allocate(self.loaded, new_size, whole)
            region = Region(self, start, capacity)
            self._regions = sorted([*self._regions, region], key=lambda region: region.start)
            return region

    def release(self, region: "Region") -> None:
        """Frees a region for other workers."""
        self._regions.remove(region)

    async def warm(self, sizes: IntArray) -> tuple[()]:
        """Executes every batch size twice, for the first worker that calls this. Raises DeviceFault."""
        async with self.table_lock:
            if not self._is_warm:
                times = await self.shared.device.warm(self.loaded, self.table, sizes.tolist())
                self.shared.cost.calibrate(*times)
                self._is_warm = True
        return ()

    async def explain(
        self, user_row: int, deadline: float, post_rows: IntArray, image: HalfArray, caption: HalfArray
    ) -> FloatArray:
        """Returns the explain terms float32 (m * 8) of one user with posts; see messages.CALLS.

        Raises:
            IndexError: A row of a post or of the user is out of range.
            ValueError: There is not one embedding for each post.
            ScoringFailed: The queue refused the request, or the device failed.
        """
        require_rows("user_row", np.array([user_row]), self.loaded.manifest.dimensions.users)
        require_rows("post_rows", post_rows, self.loaded.manifest.dimensions.posts)
        embeddings = ReceivedEmbeddings(len(post_rows), image, caption)
        request = ExplainRequest(self.loaded, user_row, post_rows, post_rows, embeddings, deadline)
        return await self.shared.batcher.submit(request, request.size, request.key, deadline)

    def _find_gap(self, capacity: int) -> int:
        """The first row of a large enough gap between regions, or after the last region."""
        start = 0
        for region in self._regions:
            if region.start - start >= capacity:
                break
            start = region.start + region.capacity
        return start


@dataclass(frozen=True, slots=True)
class Region:
    """A worker's rows [start, start + capacity) of a model's table."""

    model: SharedModel
    start: int
    capacity: int

    async def enlarge(self, capacity: int, rows: int) -> "Region":
        """Allocates another region, and copies the first `rows` rows of this one.

        Raises:
            IndexError: One of the regions has fewer rows.
            DeviceFault: The device failed.
        """
        if rows > min(self.capacity, capacity):
            raise IndexError(f"{rows} rows do not fit into a region of {min(self.capacity, capacity)}")
        region = await self.model.allocate(capacity)
        try:
            async with self.model.table_lock:
                copy = partial(
                    self.model.shared.device.copy, self.model.table, self.start, region.start, rows
                )
                await self.model.shared.batcher.run_background(copy)
        except BaseException:  # the worker disconnected, or the device failed
            region.release()
            raise
        return region

    async def encode(self, first: int, post_rows: IntArray, image: HalfArray, caption: HalfArray) -> float:
        """Encodes posts into rows from `first`; see messages.CALLS. Returns the seconds that it took.

        Raises:
            IndexError: The region is too small, or a vocabulary row is out of range.
            ValueError: There is not one embedding for each post.
            DeviceFault: The device failed.
        """
        require_rows("rows", np.array([first, first + len(post_rows) - 1]), self.capacity)
        require_rows("post_rows", post_rows, self.model.loaded.manifest.dimensions.posts)
        embeddings = ReceivedEmbeddings(len(post_rows), image, caption)
        async with self.model.table_lock:
            own = replace(
                self.model.table, vectors=self.model.table.vectors[self.start :][: self.capacity], rows=first
            )
            turn = partial(self.model.shared.device.encode, self.model.loaded, post_rows, embeddings, own)
            _, seconds = await self.model.shared.batcher.run_background(turn)
            return seconds

    async def score(
        self, deadline: float, user_rows: IntArray, sizes: IntArray, rows: IntArray
    ) -> FloatArray:
        """Returns the logits float32 (m) of a worker's batch; see messages.CALLS and ScoreRequest.

        Raises:
            IndexError: A row of a post or of a user is out of range.
            ValueError: The sizes do not add up to the number of rows.
            ScoringFailed: The queue refused the batch, or the device failed.
        """
        if len(sizes) != len(user_rows) or sizes.min(initial=0) < 0 or sizes.sum() != len(rows):
            raise ValueError("the sizes do not add up to the number of rows")
        require_rows("user_rows", user_rows, self.model.loaded.manifest.dimensions.users)
        require_rows("rows", rows, self.capacity)
        request = ScoreRequest(
            self.model.loaded.network, self.model.table, user_rows, sizes, rows + self.start, deadline
        )
        batcher = self.model.shared.batcher
        if deadline == math.inf:
            logits, _ = await batcher.execute_background(request)
            return logits
        return await batcher.submit(request, len(rows), request.key, deadline)

    def release(self) -> None:
        """Frees the rows for other workers."""
        self.model.release(self)


class ReceivedEmbeddings:
    """The embeddings that a worker sent for the posts of one call. See protocols.Embeddings.

    Args:
        posts: The number of posts, n, above 0.
        image: float16 (n * w).
        caption: float16 (n * v).

    Raises:
        ValueError: There is not one embedding for each post.
    """

    def __init__(self, posts: int, image: HalfArray, caption: HalfArray) -> None:
        self._embeddings = image.reshape(posts, -1), caption.reshape(posts, -1)

    def read(self, start: int, stop: int) -> tuple[HalfArray, HalfArray]:
        """All embeddings, whatever the rows."""
        return self._embeddings

    def take(self, rows: IntArray) -> tuple[HalfArray, HalfArray]:
        """All embeddings, whatever the rows."""
        return self._embeddings
