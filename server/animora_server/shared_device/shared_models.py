"""What workers share in the device process: each version once, with one post table that all have regions of.

A batch holds work of one model and one post table. Since the table is one, it may hold work of all workers.
Each has rows of its own in it, because each follows the database by itself.
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
        """The table's rows int64 (m) for the region's. Raises IndexError where it does not have them."""
        require_rows("rows", rows, self.capacity)
        return rows + self.start


@dataclass(frozen=True, slots=True)
class Received:
    """Embeddings that a worker sent: of the rows in question, and no others. See protocols.Embeddings."""

    image: HalfArray
    caption: HalfArray

    def read(self, start: int, stop: int) -> tuple[HalfArray, HalfArray]:
        """All of them."""
        return self.image, self.caption

    def take(self, rows: IntArray) -> tuple[HalfArray, HalfArray]:
        """All of them."""
        return self.image, self.caption


class SharedModel:
    """A loaded version and its one table.

    Args:
        model: The version.
        device: Where it is.
        batcher: The device's queue.
        workers: How many regions to make room for at first.
    """

    def __init__(self, model: LoadedModel, device: Device, batcher: DeviceBatcher, workers: int) -> None:
        self.model = model
        self._device = device
        self._batcher = batcher
        self._workers = workers
        self._table: PostVectors | None = None
        self._regions: list[Region] = []  # by their start
        self._changing = asyncio.Lock()  # whoever writes to the table, or replaces it by a larger one
        self._is_warm = False

    async def reserve(self, capacity: int, source: Region | None = None, rows: int = 0) -> Region:
        """A region of so many rows, which begins with the first rows of another.

        Raises:
            DeviceFault: The device failed.
        """
        async with self._changing:
            region = Region(self._gap(capacity), capacity)
            if self._table is None or region.stop > len(self._table.vectors):
                size = max(region.stop, capacity * self._workers, 2 * self._size)
                before = self._table and replace(self._table, rows=self._size)
                self._table = await self._device.allocate(self.model, size, before)
            self._regions = sorted([*self._regions, region], key=lambda region: region.start)
            if source is not None and rows:
                copy = partial(self._device.copy, self._table, source.start, region.start, rows)
                try:
                    await self._batcher.run_background(copy)
                except BaseException:  # the worker has gone, or the device
                    self.release(region)
                    raise
            return region

    def release(self, region: Region) -> None:
        """Lets others have a region."""
        self._regions.remove(region)

    async def encode(self, region: Region, first: int, post_rows: IntArray, embeddings: Received) -> float:
        """Writes vectors of post_rows int64 (n) to a region, from its row `first` on; the seconds it took.

        Raises:
            IndexError: They do not fit, or a row is none of the model's.
            DeviceFault: The device failed.
        """
        region.rows(np.array([first, first + len(post_rows) - 1]))
        require_rows("post_rows", post_rows, self.model.manifest.dimensions.posts)
        async with self._changing:
            assert self._table is not None  # there is a region of it
            own = replace(self._table, vectors=self._table.vectors[region.start : region.stop], rows=first)
            turn = partial(self._device.encode, self.model, post_rows, embeddings, own)
            _, seconds = await self._batcher.run_background(turn)
            return seconds

    async def warm(self, sizes: Sequence[int], cost: CostModel) -> None:
        """Runs every batch size twice, once for all workers. Raises DeviceFault."""
        async with self._changing:
            assert self._table is not None  # there is a region of it
            if not self._is_warm:
                cost.calibrate(*await self._device.warm(self.model, self._table, sizes))
                self._is_warm = True

    def work(
        self, region: Region, user_rows: IntArray, sizes: IntArray, rows: IntArray, deadline: float
    ) -> ScoreRequest:
        """The work of one message; see ScoreRequest.

        Args:
            region: The worker's.
            user_rows: int64 (b).
            sizes: int64 (b).
            rows: int64 (m), in the region.
            deadline: Of the last one that somebody waits for.

        Raises:
            IndexError: A row is none of the region's, or a user's row none of the model's.
        """
        assert self._table is not None  # there is a region of it
        require_rows("user_rows", user_rows, self.model.manifest.dimensions.users)
        return ScoreRequest(self.model.network, self._table, user_rows, sizes, region.rows(rows), deadline)

    @property
    def _size(self) -> int:
        return 0 if self._table is None else len(self._table.vectors)

    def _gap(self, capacity: int) -> int:
        """The first row from which on there is room, in the table or beyond its end."""
        start = 0
        for region in self._regions:
            if region.start - start >= capacity:
                break
            start = region.stop
        return start


class SharedModels:
    """The versions that some worker holds, each loaded once.

    Args:
        store: Where they are read from.
        device: Where they are loaded to.
        batcher: The device's queue.
        workers: As of SharedModel.
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
        """A version, read from the store and verified where no worker holds it yet.

        Raises:
            ArtifactRejected: It must not serve.
            ArtifactError: The store does not have it, or cannot be read.
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
