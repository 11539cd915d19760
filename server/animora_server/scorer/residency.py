"""Residency: which models are on the device, encoded for which catalog snapshot; gives out pins."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import structlog

from animora_artifact import Artifact, ArtifactRejected
from animora_artifact.errors import RejectionReason
from animora_server.batching import Batcher, CostModel
from animora_server.catalog import CatalogSnapshot, EmbeddingFile
from animora_server.errors import ScoringFailed
from animora_server.scorer.device import Device, LoadedModel, PostTable, ScoreWork
from animora_server.scorer.resident import ResidentModel
from animora_server.types import BoolArray, FloatArray, IntArray

log = structlog.get_logger(__name__)

# Encoding shares the device with requests: a turn aims at this many seconds.
TURN_SECONDS = 0.002
FIRST_TURN_ROWS = 64
MAX_TURN_ROWS = 8192
SPARE_CAPACITY = 1.25
MIN_CAPACITY = 1024


@dataclass(frozen=True, slots=True)
class Pin:
    """One snapshot and the models encoded for it. See ranker.protocols."""

    snapshot: CatalogSnapshot
    active: ResidentModel | None = None
    resident: Mapping[str, ResidentModel] = field(default_factory=dict)


class Residency:
    """Binds catalog snapshots and models together, and swaps the pair that requests see.

    Publishing a snapshot encodes its new rows for every resident model before the snapshot is seen;
    activating a model encodes all rows and warms every batch size before the model is seen. Requests
    go on meanwhile with the pin they have.
    """

    def __init__(
        self,
        device: Device,
        batcher: Batcher[ScoreWork, FloatArray],
        cost: CostModel,
        max_batch_rows: int,
        max_models: int,
    ) -> None:
        self._device = device
        self._batcher = batcher
        self._cost = cost
        self._max_batch_rows = max_batch_rows
        self._max_models = max_models
        self._changing = asyncio.Lock()
        self._loaded: dict[str, LoadedModel] = {}  # oldest use first, the active one last
        self._pin: Pin | None = None

    def current(self) -> Pin | None:
        """The pair that a new request sees; None until a catalog is published."""
        return self._pin

    @property
    def active_version(self) -> str | None:
        """The version that answers, or would if there were a catalog."""
        return next(reversed(self._loaded), None)

    async def publish(self, snapshot: CatalogSnapshot) -> None:
        """Makes a snapshot the one that new requests see."""
        async with self._changing:
            resident = {}
            for version, loaded in self._loaded.items():
                try:
                    resident[version] = await self._bind(loaded, snapshot)
                except (ScoringFailed, ArtifactRejected) as error:
                    log.error("a model cannot be bound to the catalog", version=version, error=str(error))
            self._swap(snapshot, resident)

    async def activate(self, artifact: Artifact) -> None:
        """Loads a version beside the others, checks, encodes and warms it, then lets it answer.

        Raises:
            ArtifactRejected: It must not serve; the version that answered still does.
            ScoringFailed: The device failed.
        """
        manifest = artifact.manifest
        async with self._changing:
            loaded = self._loaded.get(manifest.version)
            if loaded is None:
                loaded = await self._device.load(artifact)
            resident: dict[str, ResidentModel] = {}
            if self._pin is not None:
                bound = await self._bind(loaded, self._pin.snapshot)
                resident = {**self._pin.resident, manifest.version: bound}
            self._loaded.pop(manifest.version, None)
            self._loaded[manifest.version] = loaded
            while len(self._loaded) > self._max_models:
                evicted = next(iter(self._loaded))
                del self._loaded[evicted]
                resident.pop(evicted, None)
            if self._pin is not None:
                self._swap(self._pin.snapshot, resident)

    def _swap(self, snapshot: CatalogSnapshot, resident: dict[str, ResidentModel]) -> None:
        active = resident.get(self.active_version) if self.active_version else None
        self._pin = Pin(snapshot, active, resident)

    async def _bind(self, loaded: LoadedModel, snapshot: CatalogSnapshot) -> ResidentModel:
        """The model with every row of the snapshot encoded; rows that are encoded already are kept."""
        _check_widths(loaded, snapshot)
        bound = self._pin.resident.get(loaded.manifest.version) if self._pin else None
        table, informed = await self._with_capacity(
            loaded, len(snapshot), bound if bound and bound.epoch == snapshot.epoch else None
        )
        first = table.rows
        post_rows = loaded.posts.rows(snapshot.post_ids[first:])  # int64 (n new), 0 unknown
        informed[first : len(snapshot)] = post_rows > 0
        if loaded.manifest.dimensions.image or loaded.manifest.dimensions.caption:
            informed[first : len(snapshot)] |= snapshot.fingerprints[first:] != 0
        table = await self._encode(loaded, post_rows, snapshot.embeddings, table)
        if bound is None:
            fixed, per_row = await self._device.warm(loaded.network, table, self._warm_sizes())
            self._cost.calibrate(fixed, per_row)
        return ResidentModel(loaded, snapshot.epoch, table, informed, self._batcher, self._max_batch_rows)

    async def _with_capacity(
        self, loaded: LoadedModel, rows: int, bound: ResidentModel | None
    ) -> tuple[PostTable, BoolArray]:
        """A table with room for `rows`, and as many flags: those at hand, or larger copies."""
        if bound is not None and rows <= len(bound.informed_rows):
            return bound.table, bound.informed_rows
        capacity = max(int(rows * SPARE_CAPACITY), MIN_CAPACITY)
        informed = np.zeros(capacity, np.bool_)
        if bound is not None:
            informed[: len(bound.informed_rows)] = bound.informed_rows
        width = loaded.manifest.dimensions.post_vector
        return await self._device.allocate(capacity, width, bound.table if bound else None), informed

    async def _encode(
        self, loaded: LoadedModel, post_rows: IntArray, embeddings: EmbeddingFile, table: PostTable
    ) -> PostTable:
        """Appends the vectors of post_rows int64 (n) to a table, in short turns between requests."""
        at = 0
        turn_rows = FIRST_TURN_ROWS
        while at < len(post_rows):
            turn = partial(self._device.encode, loaded, post_rows[at : at + turn_rows], embeddings, table)
            at += turn_rows
            table, seconds = await self._batcher.run_bulk(turn)
            turn_rows = min(max(int(turn_rows * min(TURN_SECONDS / seconds, 2)), 1), MAX_TURN_ROWS)
        return table

    def _warm_sizes(self) -> list[int]:
        """Batch sizes from 1 to the largest, by factors of four."""
        sizes = [self._max_batch_rows]
        while sizes[-1] > 1:
            sizes.append(sizes[-1] // 4 or 1)
        return sizes[::-1]


def _check_widths(loaded: LoadedModel, snapshot: CatalogSnapshot) -> None:
    """A catalog without embeddings is fine; one with others than the model's is not."""
    dimensions, embeddings = loaded.manifest.dimensions, snapshot.embeddings
    for name, model, catalog in (
        ("image", dimensions.image, embeddings.image_width),
        ("caption", dimensions.caption, embeddings.caption_width),
    ):
        if model and catalog and model != catalog:
            raise ArtifactRejected(
                RejectionReason.DIMENSIONS,
                f"{name} embeddings are {catalog} wide in the catalog, {model} in the model",
            )
