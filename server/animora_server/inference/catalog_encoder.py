"""Encodes every post of a catalog snapshot for a model, and warms the model's batch sizes."""

from functools import partial

import numpy as np

from animora_artifact import ArtifactRejected, Manifest
from animora_artifact.errors import RejectionReason
from animora_server.batching import CostModel
from animora_server.catalog import CatalogSnapshot, EmbeddingFile
from animora_server.inference.protocols import DeviceTable, InferenceDevice, Model, Queue
from animora_server.inference.resident_model import ResidentModel
from animora_server.types import BoolArray, IntArray

TURN_SECONDS = 0.002  # target duration of one background turn: encoding shares the device with requests
FIRST_TURN_ROWS = 64
MAX_TURN_ROWS = 8192
SPARE_CAPACITY = 1.25
MIN_CAPACITY = 1024


class CatalogEncoder:
    """Encodes posts on the serving device, in short background turns between the batches of requests.

    Args:
        device: Encodes and warms.
        queue: The device's queue, which runs the background turns.
        cost: The cost estimate that the measured batch times calibrate.
        max_batch_rows: The largest batch size to warm.
    """

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

    async def encode_snapshot(
        self, loaded: Model, snapshot: CatalogSnapshot, previous: ResidentModel | None
    ) -> ResidentModel:
        """Returns the model with every row of the snapshot encoded and every batch size warm.

        An embedding whose width differs from the model's counts as absent; see check_widths.

        Args:
            loaded: The model.
            snapshot: The catalog snapshot to encode.
            previous: The same model encoded for an earlier snapshot. Its rows are reused within one epoch.

        Raises:
            ScoringFailed: The device failed.
        """
        table, feature_rows = await self._with_capacity(
            loaded,
            len(snapshot),
            previous if previous and previous.snapshot.epoch == snapshot.epoch else None,
        )
        first = table.rows
        post_rows = loaded.posts.rows(snapshot.post_ids[first:])  # int64 (n new), 0 unknown
        new = np.arange(first, len(snapshot))
        feature_rows[new] = has_features(loaded.manifest, snapshot, new, post_rows)
        table = await self._encode(loaded, post_rows, snapshot.embeddings, table)
        if previous is None:
            fixed, per_row = await self._device.warm(loaded, table, self._warm_sizes())
            self._cost.calibrate(fixed, per_row)
        return ResidentModel(loaded, snapshot, table, feature_rows, self._queue, self._max_batch_rows)

    async def _with_capacity(
        self, loaded: Model, rows: int, previous: ResidentModel | None
    ) -> tuple[DeviceTable, BoolArray]:
        """A table and flags bool (capacity) with room for `rows`: the previous ones, or larger copies."""
        if previous is not None and rows <= len(previous.feature_rows):
            return previous.table, previous.feature_rows
        capacity = max(int(rows * SPARE_CAPACITY), MIN_CAPACITY)
        feature_rows = np.zeros(capacity, np.bool_)
        if previous is not None:
            feature_rows[: len(previous.feature_rows)] = previous.feature_rows
        source = previous.table if previous else None
        return await self._device.allocate(loaded, capacity, source), feature_rows

    async def _encode(
        self, loaded: Model, post_rows: IntArray, embeddings: EmbeddingFile, table: DeviceTable
    ) -> DeviceTable:
        """Appends the vectors of post_rows int64 (n) to a table, in background turns of TURN_SECONDS."""
        at = 0
        turn_rows = FIRST_TURN_ROWS
        while at < len(post_rows):
            turn = partial(self._device.encode, loaded, post_rows[at : at + turn_rows], embeddings, table)
            at += turn_rows
            table, seconds = await self._queue.run_background(turn)
            turn_rows = min(max(int(turn_rows * min(TURN_SECONDS / seconds, 2)), 1), MAX_TURN_ROWS)
        return table

    def _warm_sizes(self) -> list[int]:
        """Batch sizes from 1 to max_batch_rows, by factors of four."""
        sizes = [self._max_batch_rows]
        while sizes[-1] > 1:
            sizes.append(sizes[-1] // 4 or 1)
        return sizes[::-1]


def has_features(
    manifest: Manifest, snapshot: CatalogSnapshot, rows: IntArray, post_rows: IntArray
) -> BoolArray:
    """Bool (m): whether the model has any input for each post, an id or an embedding of its width.

    Args:
        manifest: The model's manifest.
        snapshot: The catalog snapshot.
        rows: int64 (m), the posts' rows in the catalog.
        post_rows: int64 (m), the posts' rows in the vocabulary, 0 unknown.
    """
    feature_rows = np.greater(post_rows, 0)
    taken, kept = manifest.dimensions, snapshot.embeddings
    if taken.image == kept.image_width > 0 or taken.caption == kept.caption_width > 0:
        feature_rows |= snapshot.has_embeddings(rows)
    return feature_rows


def check_widths(manifest: Manifest, snapshot: CatalogSnapshot) -> None:
    """Checks that the catalog's embeddings have the model's widths; a catalog without embeddings passes.

    Raises:
        ArtifactRejected: The widths of the catalog's embeddings differ from the model's.
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
