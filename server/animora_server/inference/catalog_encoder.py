"""Binding: a model's post vectors for every row of a catalog snapshot, and its batch sizes warm."""

from functools import partial

import numpy as np

from animora_artifact import ArtifactRejected, Manifest
from animora_artifact.errors import RejectionReason
from animora_server.batching import CostModel
from animora_server.catalog import CatalogSnapshot, EmbeddingFile
from animora_server.inference.protocols import DeviceTable, InferenceDevice, Model, Queue
from animora_server.inference.resident_model import ResidentModel
from animora_server.types import BoolArray, IntArray

# Encoding shares the device with requests: a turn aims at this many seconds.
TURN_SECONDS = 0.002
FIRST_TURN_ROWS = 64
MAX_TURN_ROWS = 8192
SPARE_CAPACITY = 1.25
MIN_CAPACITY = 1024


class CatalogEncoder:
    """Encodes posts on the device that serves, in short turns between the batches of requests."""

    def __init__(
        self,
        device: InferenceDevice,
        queue: Queue,
        cost: CostModel,
        max_batch_rows: int,
    ) -> None:
        self._device = device
        self._queue = queue
        self._cost = cost
        self._max_batch_rows = max_batch_rows

    async def bind(
        self, loaded: Model, snapshot: CatalogSnapshot, bound: ResidentModel | None
    ) -> ResidentModel:
        """The model with every row of the snapshot encoded, and every batch size warm.

        Embeddings of another width than the model's count as absent; see check_widths.

        Args:
            loaded: The model.
            snapshot: The catalog.
            bound: The same model bound before, whose encoded rows are kept if they are of this epoch.

        Raises:
            ScoringFailed: The device failed.
        """
        table, feature_rows = await self._with_capacity(
            loaded, len(snapshot), bound if bound and bound.snapshot.epoch == snapshot.epoch else None
        )
        first = table.rows
        post_rows = loaded.posts.rows(snapshot.post_ids[first:])  # int64 (n new), 0 unknown
        new = np.arange(first, len(snapshot))
        feature_rows[new] = has_features(loaded.manifest, snapshot, new, post_rows)
        table = await self._encode(loaded, post_rows, snapshot.embeddings, table)
        if bound is None:
            fixed, per_row = await self._device.warm(loaded, table, self._warm_sizes())
            self._cost.calibrate(fixed, per_row)
        return ResidentModel(loaded, snapshot, table, feature_rows, self._queue, self._max_batch_rows)

    async def _with_capacity(
        self, loaded: Model, rows: int, bound: ResidentModel | None
    ) -> tuple[DeviceTable, BoolArray]:
        """A table with room for `rows`, and as many flags: those at hand, or larger copies."""
        if bound is not None and rows <= len(bound.feature_rows):
            return bound.table, bound.feature_rows
        capacity = max(int(rows * SPARE_CAPACITY), MIN_CAPACITY)
        feature_rows = np.zeros(capacity, np.bool_)
        if bound is not None:
            feature_rows[: len(bound.feature_rows)] = bound.feature_rows
        return await self._device.allocate(loaded, capacity, bound.table if bound else None), feature_rows

    async def _encode(
        self, loaded: Model, post_rows: IntArray, embeddings: EmbeddingFile, table: DeviceTable
    ) -> DeviceTable:
        """Appends the vectors of post_rows int64 (n) to a table, in short turns between requests."""
        at = 0
        turn_rows = FIRST_TURN_ROWS
        while at < len(post_rows):
            turn = partial(self._device.encode, loaded, post_rows[at : at + turn_rows], embeddings, table)
            at += turn_rows
            table, seconds = await self._queue.run_background(turn)
            turn_rows = min(max(int(turn_rows * min(TURN_SECONDS / seconds, 2)), 1), MAX_TURN_ROWS)
        return table

    def _warm_sizes(self) -> list[int]:
        """Batch sizes from 1 to the largest, by factors of four."""
        sizes = [self._max_batch_rows]
        while sizes[-1] > 1:
            sizes.append(sizes[-1] // 4 or 1)
        return sizes[::-1]


def has_features(
    manifest: Manifest, snapshot: CatalogSnapshot, rows: IntArray, post_rows: IntArray
) -> BoolArray:
    """Bool (m): whether a model knows the id or an embedding of posts.

    Args:
        manifest: The model's.
        snapshot: The catalog.
        rows: int64 (m), the posts' rows in it.
        post_rows: int64 (m), their rows in the vocabulary, 0 unknown.
    """
    feature_rows = np.greater(post_rows, 0)
    taken, kept = manifest.dimensions, snapshot.embeddings
    if taken.image == kept.image_width > 0 or taken.caption == kept.caption_width > 0:
        feature_rows |= snapshot.has_embeddings(rows)
    return feature_rows


def check_widths(manifest: Manifest, snapshot: CatalogSnapshot) -> None:
    """A catalog without embeddings is fine; one with others than a model's is not.

    Raises:
        ArtifactRejected: The catalog's embeddings are of other widths than the model's.
    """
    dimensions, embeddings = manifest.dimensions, snapshot.embeddings
    for name, model, catalog in (
        ("image", dimensions.image, embeddings.image_width),
        ("caption", dimensions.caption, embeddings.caption_width),
    ):
        if model and catalog and model != catalog:
            raise ArtifactRejected(
                RejectionReason.DIMENSIONS,
                f"{name} embeddings are {catalog} wide in the catalog, {model} in the model",
            )
