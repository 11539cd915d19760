"""The works that batches are made of, and how much of it may be in one."""

import math
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np

from animora_server.batching import BatchLimits
from animora_server.fast_dataclass import fast_dataclass
from animora_server.inference.protocols import Embeddings, OnDevice
from animora_server.inference.terms import COALITIONS
from animora_server.settings import ScorerSettings
from animora_server.types import FloatArray, IntArray


@fast_dataclass
class ScoreRequest:
    """Pairs of users with posts, of one model and post table.

    Attributes:
        user_rows: int64 (b), the users' rows in the model.
        sizes: int64 (b), how many of the posts are each user's; they may be none.
        rows: int64 (m), the posts' rows in the post table, one user's after another's.
        deadline: When the scores are of no more use, on the event loop's clock; infinite where nobody waits.
    """

    network: OnDevice
    table: OnDevice
    user_rows: IntArray
    sizes: IntArray
    rows: IntArray
    deadline: float = math.inf

    @classmethod
    def of_one(
        cls, network: OnDevice, table: OnDevice, user_row: int, rows: IntArray, deadline: float = math.inf
    ) -> "ScoreRequest":
        """Pairs of one user."""
        return cls(network, table, np.array([user_row]), np.array([len(rows)]), rows, deadline)

    @classmethod
    def joined(cls, works: Sequence["ScoreRequest"]) -> "ScoreRequest":
        """Works that share a key as one, due when the last of them is."""
        first = works[0]
        if len(works) == 1:
            return first
        return cls(
            first.network,
            first.table,
            np.concatenate([work.user_rows for work in works]),
            np.concatenate([work.sizes for work in works]),
            np.concatenate([work.rows for work in works]),
            max(work.deadline for work in works),
        )

    def pieces(self, most: int) -> Iterator["ScoreRequest"]:
        """Its pairs in order, so many at once."""
        offsets = np.concatenate(([0], self.sizes.cumsum()))
        for start in range(0, len(self.rows), most):
            sizes = np.diff(offsets.clip(start, start + most))
            rows = self.rows[start : start + most]
            yield ScoreRequest(self.network, self.table, self.user_rows, sizes, rows, self.deadline)

    @property
    def key(self) -> tuple[int, int]:
        """Equal for works that can share a batch: one network and one piece of device memory."""
        return id(self.network), id(self.table.vectors)


@fast_dataclass
class ExplainRequest:
    """Posts whose terms with one user are wanted: float32 (m, 8).

    Attributes:
        user_row: The user's row in the model.
        post_rows: int64 (m), the posts' rows in the model.
        rows: int64 (m), the posts' rows in the catalog.
        embeddings: Image and caption embeddings by catalog row.
        deadline: As of ScoreRequest.
    """

    model: OnDevice
    user_row: int
    post_rows: IntArray
    rows: IntArray
    embeddings: Embeddings
    deadline: float = math.inf

    @property
    def size(self) -> int:
        """Rows that the network runs through."""
        return len(self.rows) * len(COALITIONS)

    @property
    def key(self) -> int:
        """Equal to no other work's: each is a batch of its own, whose terms depend on no neighbour."""
        return id(self)


InferenceRequest: TypeAlias = ScoreRequest | ExplainRequest


def split_scores(scores: FloatArray, works: Sequence[ScoreRequest]) -> list[FloatArray]:
    """The scores float32 (m) of joined works, each work's by themselves."""
    if len(works) == 1:
        return [scores]
    return np.split(scores, np.cumsum([len(work.rows) for work in works[:-1]]))


def batch_limits(settings: ScorerSettings) -> BatchLimits:
    """How much work may wait for a device, and how much is executed at once."""
    return BatchLimits(
        max_batch_rows=settings.max_batch_rows,
        max_queue_rows=settings.max_queue_rows,
        gather_window=settings.gather_window,
    )
