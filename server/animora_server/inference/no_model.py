"""What takes a model's place where no store is configured: the heuristic is then the meant answer."""

import asyncio
from dataclasses import dataclass

import numpy as np

from animora_server.errors import ModelUnavailable
from animora_server.types import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class NoModel:
    """Knows no user, so the heuristic ranks for all. See ranker.protocols."""

    version: str = ""

    def user_row(self, user_id: int) -> int:
        """0: the user is unknown."""
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

    async def explain(self, user_row: int, rows: IntArray, deadline: float) -> FloatArray:
        """Raises ModelUnavailable."""
        raise ModelUnavailable
