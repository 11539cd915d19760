"""Stand-ins for a model: where no model store is configured, and after the device was lost."""

import asyncio
from dataclasses import dataclass

import numpy as np

from animora_server.catalog import CatalogSnapshot
from animora_server.errors import DeviceFault, ModelUnavailable
from animora_server.inference.catalog_encoder import has_features
from animora_server.inference.protocols import Model
from animora_server.types import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class NoModel:
    """A ScoringModel that knows no user, so the heuristic ranks for every user and counts as no fallback."""

    version: str = ""

    def user_row(self, user_id: int) -> int:
        """Always 0, which stands for an unknown user."""
        return 0

    def user_rows(self, user_ids: IntArray) -> IntArray:
        """Zeros int64 (b) for users int64 (b)."""
        return np.zeros(len(user_ids), np.int64)

    def has_features(self, rows: IntArray) -> BoolArray:
        """False (m) for posts at catalog rows int64 (m)."""
        return np.zeros(len(rows), np.bool_)

    def score(self, user_row: int, rows: IntArray, deadline: float | None) -> "asyncio.Future[FloatArray]":
        """Raises ModelUnavailable."""
        raise ModelUnavailable

    def score_all(
        self, user_rows: IntArray, sizes: IntArray, rows: IntArray, deadline: float
    ) -> "asyncio.Future[FloatArray]":
        """Raises ModelUnavailable."""
        raise ModelUnavailable

    async def score_timed(self, user_row: int, rows: IntArray) -> tuple[FloatArray, float]:
        """Raises ModelUnavailable."""
        raise ModelUnavailable

    async def explain(self, user_row: int, rows: IntArray, deadline: float) -> FloatArray:
        """Raises ModelUnavailable."""
        raise ModelUnavailable


@dataclass(frozen=True, slots=True)
class UnavailableModel:
    """A ScoringModel whose device is lost: id look-ups work, scoring raises DeviceFault.

    The heuristic answers with a degraded reason until a version is on the device again.
    """

    model: Model
    snapshot: CatalogSnapshot

    @property
    def version(self) -> str:
        """See ScoringModel."""
        return self.model.manifest.version

    def user_row(self, user_id: int) -> int:
        """See ScoringModel."""
        return self.model.users.row(user_id)

    def user_rows(self, user_ids: IntArray) -> IntArray:
        """See ScoringModel."""
        return self.model.users.rows(user_ids)

    def has_features(self, rows: IntArray) -> BoolArray:
        """See ScoringModel."""
        post_rows = self.model.posts.rows(self.snapshot.post_ids[rows])
        return has_features(self.model.manifest, self.snapshot, rows, post_rows)

    def score(self, user_row: int, rows: IntArray, deadline: float | None) -> "asyncio.Future[FloatArray]":
        """Raises DeviceFault."""
        raise DeviceFault("the device is lost")

    def score_all(
        self, user_rows: IntArray, sizes: IntArray, rows: IntArray, deadline: float
    ) -> "asyncio.Future[FloatArray]":
        """Raises DeviceFault."""
        raise DeviceFault("the device is lost")

    async def score_timed(self, user_row: int, rows: IntArray) -> tuple[FloatArray, float]:
        """Raises DeviceFault."""
        raise DeviceFault("the device is lost")

    async def explain(self, user_row: int, rows: IntArray, deadline: float) -> FloatArray:
        """Raises DeviceFault."""
        raise DeviceFault("the device is lost")
