"""A model whose scores are observed, at no cost for models that nobody watches."""

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np

from animora_server.errors import DeadlineUnreachable, Overloaded
from animora_server.scoring.protocols import ScoringModel
from animora_server.types import BoolArray, FloatArray, IntArray

MAX_LOOK_UPS = 256  # of users that are remembered: those of a request come right before its scoring


@dataclass(frozen=True, slots=True)
class ScoredWork:
    """Posts that a model was to score, of one or several users.

    Attributes:
        user_rows: int64 (b), the users' rows in the model.
        sizes: int64 (b), how many posts each user has.
        rows: int64 (m), the posts' catalog rows, in the order of the users.
        look_ups: The latest look-ups of users: ids, and their rows.
    """

    user_rows: IntArray
    sizes: IntArray
    rows: IntArray
    look_ups: Iterable[tuple[IntArray, IntArray]]

    @property
    def users(self) -> int:
        """How many users."""
        return len(self.sizes)

    def user_id(self, position: int) -> int | None:
        """The id of a user; None if its look-up is no longer remembered."""
        row = self.user_rows[position]
        for ids, rows in self.look_ups:
            at = np.flatnonzero(rows == row)
            if len(at):
                return ids.item(at[0])
        return None

    def posts(self, position: int) -> slice:
        """Which of the rows, and of the scores, are of one user."""
        end = self.sizes[: position + 1].sum().item()
        return slice(end - self.sizes.item(position), end)


class ScoreObserver(Protocol):
    """Receives what a watched model has scored. Its methods run between requests: they must be short."""

    def scored(self, work: ScoredWork, values: FloatArray) -> None:
        """The model has scored posts: logits float32 (m), which need not be finite."""
        ...

    def failed(self, work: ScoredWork, error: BaseException) -> None:
        """The model has failed; the work of several users is then tried again for each alone."""
        ...


@dataclass(frozen=True, slots=True)
class WatchedModel:
    """A ScoringModel that reports its scores and failures to an observer. See ScoringModel.

    Attributes:
        model: The model.
        observer: Who is told.
    """

    model: ScoringModel
    observer: ScoreObserver
    _look_ups: "deque[tuple[IntArray, IntArray]]" = field(default_factory=lambda: deque(maxlen=MAX_LOOK_UPS))

    @property
    def version(self) -> str:
        """See ScoringModel."""
        return self.model.version

    def user_row(self, user_id: int) -> int:
        """See ScoringModel."""
        row = self.model.user_row(user_id)
        self._look_ups.append((np.array([user_id]), np.array([row])))
        return row

    def user_rows(self, user_ids: IntArray) -> IntArray:
        """See ScoringModel."""
        rows = self.model.user_rows(user_ids)
        self._look_ups.append((user_ids, rows))
        return rows

    def has_features(self, rows: IntArray) -> BoolArray:
        """See ScoringModel."""
        return self.model.has_features(rows)

    def score(self, user_row: int, rows: IntArray, deadline: float | None) -> "asyncio.Future[FloatArray]":
        """See ScoringModel."""
        work = ScoredWork(np.array([user_row]), np.array([len(rows)]), rows, self._look_ups)
        try:
            future = self.model.score(user_row, rows, deadline)
        except (Overloaded, DeadlineUnreachable) as error:
            self.observer.failed(work, error)
            raise
        future.add_done_callback(partial(self._done, work))
        return future

    def score_all(
        self, user_rows: IntArray, sizes: IntArray, rows: IntArray, deadline: float
    ) -> "asyncio.Future[FloatArray]":
        """See ScoringModel."""
        work = ScoredWork(user_rows, sizes, rows, self._look_ups)
        try:
            future = self.model.score_all(user_rows, sizes, rows, deadline)
        except (Overloaded, DeadlineUnreachable) as error:
            self.observer.failed(work, error)
            raise
        future.add_done_callback(partial(self._done, work))
        return future

    async def score_timed(self, user_row: int, rows: IntArray) -> tuple[FloatArray, float]:
        """See ScoringModel. Not observed."""
        return await self.model.score_timed(user_row, rows)

    async def explain(self, user_row: int, rows: IntArray, deadline: float) -> FloatArray:
        """See ScoringModel. Not observed."""
        return await self.model.explain(user_row, rows, deadline)

    def _done(self, work: ScoredWork, future: "asyncio.Future[FloatArray]") -> None:
        if future.cancelled():
            return
        error = future.exception()
        if error is not None:
            self.observer.failed(work, error)
            return
        self.observer.scored(work, future.result())
