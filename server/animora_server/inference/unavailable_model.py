"""A model that has gone with the device it was on: it still knows whom it knew."""

import asyncio
from dataclasses import dataclass

from animora_server.catalog import CatalogSnapshot
from animora_server.errors import DeviceFault
from animora_server.inference.catalog_encoder import has_features
from animora_server.inference.protocols import Model
from animora_server.types import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class UnavailableModel:
    """Has the heuristic answer, and say why, until a version is on the device again. See ranker.protocols."""

    model: Model
    snapshot: CatalogSnapshot

    @property
    def version(self) -> str:
        """The version's name."""
        return self.model.manifest.version

    def user_row(self, user_id: int) -> int:
        """The user's row, 0 for a user it was not trained on."""
        return self.model.users.row(user_id)

    def user_rows(self, user_ids: IntArray) -> IntArray:
        """The same of users int64 (b): int64 (b)."""
        return self.model.users.rows(user_ids)

    def has_features(self, rows: IntArray) -> BoolArray:
        """Bool (m): whether it knows the id or an embedding of the posts at catalog rows int64 (m)."""
        post_rows = self.model.posts.rows(self.snapshot.post_ids[rows])
        return has_features(self.model.manifest, self.snapshot, rows, post_rows)

    def score(self, user_row: int, rows: IntArray, deadline: float | None) -> "asyncio.Future[FloatArray]":
        """Raises DeviceFault."""
        raise DeviceFault("the device has gone")

    def score_all(
        self, user_rows: IntArray, sizes: IntArray, rows: IntArray, deadline: float
    ) -> "asyncio.Future[FloatArray]":
        """Raises DeviceFault."""
        raise DeviceFault("the device has gone")

    async def explain(self, user_row: int, rows: IntArray, deadline: float) -> FloatArray:
        """Raises DeviceFault."""
        raise DeviceFault("the device has gone")
