"""The models of the device process: each version is loaded once, with one table of post vectors.

A batch holds requests of one model and one table. All workers share the table, so a batch may hold requests
of several workers. Each worker has a region of the table, because workers follow the database independently
and their catalog rows differ.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias
from weakref import WeakValueDictionary

import numpy as np

from animora_artifact import StoreUnavailable, VersionSource
from animora_artifact.checked import require_rows
from animora_server.batching import Batcher, CostModel
from animora_server.inference.device import Device
from animora_server.inference.loaded_model import LoadedModel, PostVectors
from animora_server.inference.requests import InferenceRequest, ScoreRequest
from animora_server.types import FloatArray, HalfArray, IntArray

DeviceBatcher: TypeAlias = Batcher[InferenceRequest, FloatArray]


@dataclass(frozen=True, slots=True)
class Region:
    """A worker's rows [start, start + capacity) of a model's table."""

    start: int
    capacity: int

    @property
    def stop(self) -> int:
        """The first row after it."""
        return self.start + self.capacity

    def rows(self, rows: IntArray) -> IntArray:
        """Converts the worker's rows int64 (m) to table rows. Raises IndexError for a row out of range."""
        require_rows("rows", rows, self.capacity)
        return rows + self.start


@dataclass(frozen=True, slots=True)
class ReceivedEmbeddings:
    """The embeddings that a worker sent for the rows of one call. See protocols.Embeddings."""

    image: HalfArray
    caption: HalfArray

    def read(self, start: int, stop: int) -> tuple[HalfArray, HalfArray]:
        """All embeddings, whatever the rows."""
        return self.image, self.caption

    def take(self, rows: IntArray) -> tuple[HalfArray, HalfArray]:
        """All embeddings, whatever the rows."""
        return self.image, self.caption


class SharedModel:
    """A loaded version with its table, in which each worker has a region.

    Args:
        model: The loaded version.
        device: The model's device.
        batcher: The device's queue.
        workers: The number of regions to allocate room for at first.
    """

    def __init__(self, model: LoadedModel, device: Device, batcher: DeviceBatcher, workers: int) -> None:
        self.model = model
        self._device = device
        self._batcher = batcher
        self._workers = workers
        self._table: PostVectors | None = None
        self._regions: list[Region] = []  # ascending by start
        self._table_lock = asyncio.Lock()  # held to write to the table or to replace it
        self._is_warm = False

    async def reserve(self, capacity: int, source: Region | None = None, rows: int = 0) -> Region:
        """Allocates a region; the table grows if needed.

        Args:
            capacity: Rows of the region.
            source: A region whose first rows are copied, or None.
            rows: How many rows to copy.

        Raises:
            DeviceFault: The device failed.
        """
        async with self._table_lock:
            region = Region(self._find_gap(capacity), capacity)
            if self._table is None or region.stop > len(self._table.vectors):
                size = max(region.stop, capacity * self._workers, 2 * self._size)
                previous = self._table and replace(self._table, rows=self._size)
                self._table = await self._device.allocate(self.model, size, previous)
            self._regions = sorted([*self._regions, region], key=lambda region: region.start)
            if source is not None and rows:
                copy = partial(self._device.copy, self._table, source.start, region.start, rows)
                try:
                    await self._batcher.run_background(copy)
                except BaseException:  # the worker disconnected, or the device failed
                    self.release(region)
                    raise
            return region

    def release(self, region: Region) -> None:
        """Frees a region for other workers."""
        self._regions.remove(region)

    async def encode(
        self, region: Region, first: int, post_rows: IntArray, embeddings: ReceivedEmbeddings
    ) -> float:
        """Encodes posts into a region.

        Args:
            region: The worker's region.
            first: The region's row of the first post.
            post_rows: int64 (n), vocabulary rows of the posts.
            embeddings: The posts' embeddings.

        Returns:
            The seconds that encoding took.

        Raises:
            IndexError: The region is too small, or a vocabulary row is out of range.
            DeviceFault: The device failed.
        """
        region.rows(np.array([first, first + len(post_rows) - 1]))
        require_rows("post_rows", post_rows, self.model.manifest.dimensions.posts)
        async with self._table_lock:
            assert self._table is not None  # a region exists, so the table does
            target = replace(self._table, vectors=self._table.vectors[region.start : region.stop], rows=first)
            turn = partial(self._device.encode, self.model, post_rows, embeddings, target)
            _, seconds = await self._batcher.run_background(turn)
            return seconds

    async def warm(self, sizes: Sequence[int], cost: CostModel) -> None:
        """Executes every batch size twice, for the first worker that calls this. Raises DeviceFault."""
        async with self._table_lock:
            assert self._table is not None  # a region exists, so the table does
            if not self._is_warm:
                cost.calibrate(*await self._device.warm(self.model, self._table, sizes))
                self._is_warm = True

    def request(
        self, region: Region, user_rows: IntArray, sizes: IntArray, rows: IntArray, deadline: float
    ) -> ScoreRequest:
        """Builds the request of one SCORE frame; see ScoreRequest.

        Args:
            region: The worker's region.
            user_rows: int64 (b).
            sizes: int64 (b).
            rows: int64 (m), rows of the region.
            deadline: The latest deadline of the worker's requests.

        Raises:
            IndexError: A row of a post or of a user is out of range.
        """
        assert self._table is not None  # a region exists, so the table does
        require_rows("user_rows", user_rows, self.model.manifest.dimensions.users)
        return ScoreRequest(self.model.network, self._table, user_rows, sizes, region.rows(rows), deadline)

    @property
    def _size(self) -> int:
        return 0 if self._table is None else len(self._table.vectors)

    def _find_gap(self, capacity: int) -> int:
        """The first row of a large enough gap between regions, or after the last region."""
        start = 0
        for region in self._regions:
            if region.start - start >= capacity:
                break
            start = region.stop
        return start


class SharedModels:
    """The versions that workers hold, each loaded once and freed when the last worker releases it.

    Args:
        store: The model store; None if none is configured.
        device: The device to load onto.
        batcher: The device's queue.
        workers: See SharedModel.
    """

    def __init__(
        self, store: VersionSource | None, device: Device, batcher: DeviceBatcher, workers: int
    ) -> None:
        self._store = store
        self._device = device
        self._batcher = batcher
        self._workers = workers
        self._models: WeakValueDictionary[str, SharedModel] = WeakValueDictionary()
        self._loading = asyncio.Lock()

    async def load(self, version: str) -> SharedModel:
        """Returns a version; reads and loads it if no worker holds it yet.

        Raises:
            ArtifactRejected: The version must not serve.
            ArtifactError: The store does not have the version, or cannot be read.
            DeviceFault: The device failed.
        """
        if self._store is None:
            raise StoreUnavailable("the device process has no model store")
        async with self._loading:
            model = self._models.get(version)
            if model is None:
                artifact = await asyncio.to_thread(self._store.read, version)
                loaded = await self._device.load(artifact)
                model = SharedModel(loaded, self._device, self._batcher, self._workers)
                self._models[version] = model
            return model
