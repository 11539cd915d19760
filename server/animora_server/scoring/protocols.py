"""The interfaces through which Rank and GetTimeline use models and the cache."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from animora_server.types import BoolArray, FloatArray, IntArray


class ScoringModel(Protocol):
    """A model on the device, with a post vector for each row of the catalog snapshot of the serving state."""

    @property
    def version(self) -> str:
        """The name of the model's version."""
        ...

    def user_row(self, user_id: int) -> int:
        """The user's row in the model; 0 for a user that it was not trained on."""
        ...

    def user_rows(self, user_ids: IntArray) -> IntArray:
        """The rows int64 (b) of users int64 (b), as `user_row`."""
        ...

    def has_features(self, rows: IntArray) -> BoolArray:
        """Whether the model knows the id or an embedding of the posts at rows int64 (m): bool (m)."""
        ...

    def score(self, user_row: int, rows: IntArray, deadline: float | None) -> "asyncio.Future[FloatArray]":
        """Submits posts of one user for scoring.

        Args:
            user_row: The user's row in the model.
            rows: int64 (m), the posts' catalog rows.
            deadline: On the event loop's clock; None for background work, which runs after requests.

        Returns:
            The future logits, float32 (m).

        Raises:
            ScoringFailed: The model cannot answer, or not before the deadline; also in the future.
        """
        ...

    def score_all(
        self, user_rows: IntArray, sizes: IntArray, rows: IntArray, deadline: float
    ) -> "asyncio.Future[FloatArray]":
        """Submits posts of several users for scoring, as one piece of work that succeeds or fails as a whole.

        Args:
            user_rows: int64 (b), the users' rows in the model.
            sizes: int64 (b), how many posts each user has.
            rows: int64 (m), the posts' catalog rows, concatenated in the order of the users.
            deadline: On the event loop's clock.

        Returns:
            The future logits, float32 (m).

        Raises:
            ScoringFailed: As `score`.
        """
        ...

    async def score_timed(self, user_row: int, rows: IntArray) -> tuple[FloatArray, float]:
        """Scores posts of one user as background work, which runs after requests.

        Args:
            user_row: The user's row in the model.
            rows: int64 (m), the posts' catalog rows.

        Returns:
            The logits float32 (m), and the seconds that the device took for them.

        Raises:
            ScoringFailed: The model cannot answer.
        """
        ...

    async def explain(self, user_row: int, rows: IntArray, deadline: float) -> FloatArray:
        """Terms float32 (m, 8) that add up to the logits, in the order of `terms.MODEL_TERMS`.

        Raises:
            ScoringFailed: As `score`.
        """
        ...


class ScoreCache(Protocol):
    """Cached scores by key. Best effort: neither method raises."""

    def find(
        self, keys: Sequence[bytes], counts: Sequence[int], deadline: float
    ) -> "asyncio.Future[list[FloatArray | None]]":
        """Looks up scores.

        Args:
            keys: The keys (b).
            counts: How many scores the value of each key holds (b).
            deadline: When the future completes at the latest, on the event loop's clock.

        Returns:
            For each key the scores float32 (count), or None for a miss.
        """
        ...

    def put(self, key: bytes, scores: FloatArray) -> None:
        """Queues scores float32 (count) for writing; drops them when the queue is full."""
        ...


class StageObserver(Protocol):
    """Receives how long each stage takes, once for all queries of a pass."""

    def observe(self, stage: str, seconds: float) -> None:
        """Records one pass through a stage."""
        ...
