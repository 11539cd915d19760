"""Requests to a device: scores or explanations of pairs of a user and a post, and the bounds of a batch."""

import math
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np

from animora_server.batching import BatchLimits
from animora_server.fast_dataclass import fast_dataclass
from animora_server.inference.protocols import Embeddings, OnDevice
from animora_server.settings import ScorerSettings
from animora_server.types import FloatArray, IntArray

PARTS = 3  # of a post vector: id, image, caption
TERMS = 8  # of an explained logit, in the order of scoring.terms.MODEL_TERMS
# float64 (8, parts): coalition c has part p where bit p of c is set; 0 is empty, 7 is the whole post.
COALITIONS = np.array([[c >> p & 1 for p in range(PARTS)] for c in range(2**PARTS)], np.float64)


@fast_dataclass
class ScoreRequest:
    """Requests logits float32 (m) of m pairs of a user and a post, with one model and one table.

    Attributes:
        network: The model's network on the device.
        table: The model's table of post vectors.
        user_rows: int64 (b), the users' rows in the model.
        sizes: int64 (b), the number of posts of each user, 0 allowed.
        rows: int64 (m), the posts' rows in the table, grouped by user.
        deadline: The event loop's time after which no caller waits; infinite for background work.
    """

    network: OnDevice
    table: OnDevice
    user_rows: IntArray
    sizes: IntArray
    rows: IntArray
    deadline: float = math.inf

    @classmethod
    def for_user(
        cls, network: OnDevice, table: OnDevice, user_row: int, rows: IntArray, deadline: float = math.inf
    ) -> "ScoreRequest":
        """A request for one user."""
        return cls(network, table, np.array([user_row]), np.array([len(rows)]), rows, deadline)

    @classmethod
    def concatenated(cls, requests: Sequence["ScoreRequest"]) -> "ScoreRequest":
        """One request for all pairs of requests that share a key, with the latest of their deadlines."""
        first = requests[0]
        if len(requests) == 1:
            return first
        return cls(
            first.network,
            first.table,
            np.concatenate([request.user_rows for request in requests]),
            np.concatenate([request.sizes for request in requests]),
            np.concatenate([request.rows for request in requests]),
            max(request.deadline for request in requests),
        )

    def split(self, max_rows: int) -> Iterator["ScoreRequest"]:
        """Splits this request into requests for at most `max_rows` pairs each."""
        offsets = np.concatenate(([0], self.sizes.cumsum()))
        for start in range(0, len(self.rows), max_rows):
            sizes = np.diff(offsets.clip(start, start + max_rows))
            rows = self.rows[start : start + max_rows]
            yield ScoreRequest(self.network, self.table, self.user_rows, sizes, rows, self.deadline)

    @property
    def key(self) -> tuple[int, int]:
        """Equal for requests that can share a batch: those with the same network and table memory."""
        return id(self.network), id(self.table.vectors)


@fast_dataclass
class ExplainRequest:
    """Requests the explain terms float32 (m, 8) of one user with m posts.

    Attributes:
        model: The model.
        user_row: The user's row in the model.
        post_rows: int64 (m), the posts' rows in the model.
        rows: int64 (m), the posts' rows in the catalog.
        embeddings: Image and caption embeddings by catalog row.
        deadline: As in ScoreRequest.
    """

    model: OnDevice
    user_row: int
    post_rows: IntArray
    rows: IntArray
    embeddings: Embeddings
    deadline: float = math.inf

    @property
    def size(self) -> int:
        """Rows that the network computes: one for each coalition of each post."""
        return len(self.rows) * len(COALITIONS)

    @property
    def key(self) -> int:
        """Unique, so each request is a separate batch and its terms do not depend on another request."""
        return id(self)


InferenceRequest: TypeAlias = ScoreRequest | ExplainRequest


def split_by_request(scores: FloatArray, requests: Sequence[ScoreRequest]) -> list[FloatArray]:
    """Splits the scores float32 (m) of concatenated requests: one array for each request."""
    if len(requests) == 1:
        return [scores]
    return np.split(scores, np.cumsum([len(request.rows) for request in requests[:-1]]))


def batch_limits(settings: ScorerSettings) -> BatchLimits:
    """The bounds of a device's queue and batches, from the settings."""
    return BatchLimits(
        max_batch_rows=settings.max_batch_rows,
        max_queue_rows=settings.max_queue_rows,
        gather_window=settings.gather_window,
    )
