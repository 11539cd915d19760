"""A model on the device, encoded for a catalog snapshot: what the ranker scores with."""

import asyncio
from dataclasses import dataclass

import numpy as np

from animora_server.catalog import CatalogSnapshot
from animora_server.inference.protocols import DeviceTable, Model, Queue
from animora_server.inference.requests import ExplainRequest, ScoreRequest
from animora_server.inference.terms import TERMS
from animora_server.types import BoolArray, FloatArray, IntArray

NO_VALUES = np.empty(0, np.float32)
EXPLAINED_AT_ONCE = (
    64  # posts, each of which runs through the network 8 times: about a millisecond on one core
)
TURN_ROWS = 4096  # at once in the bulk lane: about a millisecond on one core


@dataclass(frozen=True, slots=True)
class ResidentModel:
    """A loaded model with the post vectors of one catalog snapshot. See ranker.protocols.

    Attributes:
        model: The network and its vocabulary.
        snapshot: The catalog whose rows the table's are. What may be shown is told by the pin's, which may
            have been corrected since.
        table: The post vectors.
        feature_rows: bool (capacity): rows of which the model knows the id or an embedding.
        queue: The device's.
        max_rows: A longer request is cut into pieces of so many rows.
    """

    model: Model
    snapshot: CatalogSnapshot
    table: DeviceTable
    feature_rows: BoolArray
    queue: Queue
    max_rows: int

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
        return self.feature_rows[rows]

    def score(self, user_row: int, rows: IntArray, deadline: float | None) -> "asyncio.Future[FloatArray]":
        """Logits float32 (m) of the posts at catalog rows int64 (m), to come. Raises ScoringFailed."""
        if deadline is None:
            return asyncio.ensure_future(self._score_in_turns(user_row, rows))
        return self._score(ScoreRequest.of_one(self.model.network, self.table, user_row, rows, deadline))

    def score_all(
        self, user_rows: IntArray, sizes: IntArray, rows: IntArray, deadline: float
    ) -> "asyncio.Future[FloatArray]":
        """The same for several users (b), whose posts int64 (m) follow one another. Raises ScoringFailed."""
        return self._score(ScoreRequest(self.model.network, self.table, user_rows, sizes, rows, deadline))

    async def explain(self, user_row: int, rows: IntArray, deadline: float) -> FloatArray:
        """Terms float32 (m, 8) that add up to the logits. Raises ScoringFailed."""
        terms = [np.empty((0, TERMS), np.float32)]
        post_rows = self.model.posts.rows(self.snapshot.post_ids[rows])
        for start in range(0, len(rows), EXPLAINED_AT_ONCE):
            some = slice(start, start + EXPLAINED_AT_ONCE)
            work = ExplainRequest(
                self.model, user_row, post_rows[some], rows[some], self.snapshot.embeddings, deadline
            )
            # One after another: between two of them the queue executes what came meanwhile.
            terms.append(await self.queue.submit(work, work.size, work.key, deadline))
        return np.concatenate(terms)

    def _score(self, work: ScoreRequest) -> "asyncio.Future[FloatArray]":
        if 0 < len(work.rows) <= self.max_rows:
            return self._submit(work)
        return asyncio.ensure_future(self._score_in_pieces(work))

    async def _score_in_pieces(self, work: ScoreRequest) -> FloatArray:
        pieces: list[asyncio.Future[FloatArray]] = []
        try:
            for some in work.pieces(self.max_rows):
                pieces.append(self._submit(some))  # noqa: PERF401  # those before one that is refused count
            return np.concatenate([NO_VALUES, *await asyncio.gather(*pieces)])
        finally:
            for piece in pieces:  # where one is refused, the others are of no use
                piece.cancel()

    async def _score_in_turns(self, user_row: int, rows: IntArray) -> FloatArray:
        """Scores in the bulk lane, in pieces that hold the device no longer than requests can wait."""
        work = ScoreRequest.of_one(self.model.network, self.table, user_row, rows)
        values = [NO_VALUES]
        for piece in work.pieces(TURN_ROWS):
            values.append(await self.queue.execute_background(piece))  # noqa: PERF401  # a list would not be shorter
        return np.concatenate(values)

    def _submit(self, work: ScoreRequest) -> "asyncio.Future[FloatArray]":
        return self.queue.submit(work, len(work.rows), work.key, work.deadline)
