"""A model on the device with the post vectors of a catalog snapshot: the ScoringModel that serves."""

import asyncio
from dataclasses import dataclass

import numpy as np

from animora_server.catalog import CatalogSnapshot
from animora_server.inference.protocols import DeviceTable, Model, Queue
from animora_server.inference.requests import TERMS, ExplainRequest, ScoreRequest
from animora_server.types import BoolArray, FloatArray, IntArray

NO_SCORES = np.empty(0, np.float32)
EXPLAIN_CHUNK_POSTS = 64  # the network computes 8 rows a post: about a millisecond on one core
BACKGROUND_CHUNK_ROWS = 4096  # of one background turn: about a millisecond on one core


@dataclass(frozen=True, slots=True)
class ResidentModel:
    """A loaded model with the post vectors of one catalog snapshot. See ScoringModel.

    Attributes:
        model: The network and its vocabulary.
        snapshot: The catalog snapshot whose rows the table has. Visibility is decided by the serving state's
            snapshot, to which change events may have been applied since.
        table: The post vectors.
        feature_rows: bool (capacity): whether the model knows the id or an embedding of each row's post.
        queue: The device's queue.
        max_rows: A longer request is split into requests of this many pairs.
    """

    model: Model
    snapshot: CatalogSnapshot
    table: DeviceTable
    feature_rows: BoolArray
    queue: Queue
    max_rows: int

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
        return self.feature_rows[rows]

    def score(self, user_row: int, rows: IntArray, deadline: float | None) -> "asyncio.Future[FloatArray]":
        """See ScoringModel."""
        if deadline is None:
            return asyncio.ensure_future(self._score_in_background(user_row, rows))
        return self._score(ScoreRequest.for_user(self.model.network, self.table, user_row, rows, deadline))

    def score_all(
        self, user_rows: IntArray, sizes: IntArray, rows: IntArray, deadline: float
    ) -> "asyncio.Future[FloatArray]":
        """See ScoringModel."""
        return self._score(ScoreRequest(self.model.network, self.table, user_rows, sizes, rows, deadline))

    async def score_timed(self, user_row: int, rows: IntArray) -> tuple[FloatArray, float]:
        """See ScoringModel. In background turns, each short enough for requests with a deadline to wait."""
        request = ScoreRequest.for_user(self.model.network, self.table, user_row, rows)
        scores, total = [NO_SCORES], 0.0
        for chunk in request.split(BACKGROUND_CHUNK_ROWS):
            values, seconds = await self.queue.execute_background(chunk)
            scores.append(values)
            total += seconds
        return np.concatenate(scores), total

    async def explain(self, user_row: int, rows: IntArray, deadline: float) -> FloatArray:
        """See ScoringModel."""
        terms = [np.empty((0, TERMS), np.float32)]
        post_rows = self.model.posts.rows(self.snapshot.post_ids[rows])
        for start in range(0, len(rows), EXPLAIN_CHUNK_POSTS):
            chunk = slice(start, start + EXPLAIN_CHUNK_POSTS)
            request = ExplainRequest(
                self.model, user_row, post_rows[chunk], rows[chunk], self.snapshot.embeddings, deadline
            )
            # One after another, so that the queue can execute other requests between two chunks.
            terms.append(await self.queue.submit(request, request.size, request.key, deadline))
        return np.concatenate(terms)

    def _score(self, request: ScoreRequest) -> "asyncio.Future[FloatArray]":
        if 0 < len(request.rows) <= self.max_rows:
            return self._submit(request)
        return asyncio.ensure_future(self._score_in_chunks(request))

    async def _score_in_chunks(self, request: ScoreRequest) -> FloatArray:
        futures: list[asyncio.Future[FloatArray]] = []
        try:
            for chunk in request.split(self.max_rows):
                futures.append(self._submit(chunk))  # noqa: PERF401  # a refused chunk cancels the earlier ones
            return np.concatenate([NO_SCORES, *await asyncio.gather(*futures)])
        finally:
            for future in futures:
                future.cancel()

    async def _score_in_background(self, user_row: int, rows: IntArray) -> FloatArray:
        scores, _ = await self.score_timed(user_row, rows)
        return scores

    def _submit(self, request: ScoreRequest) -> "asyncio.Future[FloatArray]":
        return self.queue.submit(request, len(request.rows), request.key, request.deadline)
