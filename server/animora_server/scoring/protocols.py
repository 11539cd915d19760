"""What the ranker needs from the rest of the server; `app` supplies it."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Protocol

from animora_server.catalog import CatalogSnapshot
from animora_server.types import BoolArray, FloatArray, IntArray


class ScoringModel(Protocol):
    """A model on the device whose post table covers the rows of the snapshot it is pinned with."""

    @property
    def version(self) -> str:
        """The version's name."""
        ...

    def user_row(self, user_id: int) -> int:
        """The user's row, 0 for a user it was not trained on."""
        ...

    def user_rows(self, user_ids: IntArray) -> IntArray:
        """The same of users int64 (b): int64 (b)."""
        ...

    def has_features(self, rows: IntArray) -> BoolArray:
        """Bool (m): whether it knows the id or an embedding of the posts at catalog rows int64 (m)."""
        ...

    def score(self, user_row: int, rows: IntArray, deadline: float | None) -> "asyncio.Future[FloatArray]":
        """Logits float32 (m) of the posts at catalog rows int64 (m), to come.

        Without a deadline nobody waits for them: requests that have one go first.

        Raises:
            ScoringFailed: It cannot answer, or not before the deadline (event loop's clock); at once, or in
                the future.
        """
        ...

    def score_all(
        self, user_rows: IntArray, sizes: IntArray, rows: IntArray, deadline: float
    ) -> "asyncio.Future[FloatArray]":
        """Logits float32 (m) of the posts of several users, as one piece of work that succeeds or fails.

        Args:
            user_rows: int64 (b), the users' rows.
            sizes: int64 (b), how many of the posts are each user's.
            rows: int64 (m), the posts' catalog rows, one user's after another's.
            deadline: On the event loop's clock.

        Raises:
            ScoringFailed: As score.
        """
        ...

    async def explain(self, user_row: int, rows: IntArray, deadline: float) -> FloatArray:
        """Terms float32 (m, 8) that add up to the logits, in the order of explaining.MODEL_TERMS.

        Raises as score.
        """
        ...


class ServingState(Protocol):
    """What one request sees from its first step to its last: a snapshot and the models encoded for it."""

    @property
    def snapshot(self) -> CatalogSnapshot:
        """The posts."""
        ...

    @property
    def active(self) -> ScoringModel | None:
        """The model that answers where a request names none."""
        ...

    @property
    def resident(self) -> Mapping[str, ScoringModel]:
        """All models, by version."""
        ...


class ServingStateSource(Protocol):
    """Gives out the current pin."""

    def current(self) -> ServingState | None:
        """The pin, or None until the catalog is loaded."""
        ...


class ScoreCache(Protocol):
    """Scores by key; best effort, so neither method fails."""

    def find(
        self, keys: Sequence[bytes], counts: Sequence[int], deadline: float
    ) -> "asyncio.Future[list[FloatArray | None]]":
        """Under each key the float32 (count), or None, by the deadline (event loop's clock) at the latest."""
        ...

    def put(self, key: bytes, scores: FloatArray) -> None:
        """Stores float32 (count) some time soon, unless there is too much to store."""
        ...


class StageObserver(Protocol):
    """Is told how long a stage took, of queries that went through it together."""

    def observe(self, stage: str, seconds: float) -> None:
        """Records one pass."""
        ...
