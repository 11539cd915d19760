"""The queries that all sides get, with the rankings of the artifact itself."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import asyncpg
import numpy as np
import torch

from animora_artifact import Artifact
from animora_artifact.network import load_network
from animora_artifact.vocabulary import RowIndex
from tests.benchmarks.peers.ranking import BEST, FloatArray, IntArray

HalfArray = np.ndarray[tuple[int, int], np.dtype[np.float16]]

# Posts with closer logits may swap ranks by the rounding of a batch.
MIN_LOGIT_GAP = 1e-4
# Maximum difference of probabilities, for the same reason.
ROUNDING = 1e-4


@dataclass(frozen=True, slots=True)
class Query:
    """A user, candidates, and the expected ranking.

    Attributes:
        user: Id in the vocabulary.
        posts: int64 (k), the candidates; each has a table row or an embedding.
        best: int64 (BEST), the expected posts, best first.
        scores: float32 (BEST), their probabilities.
    """

    user: int
    posts: IntArray
    best: IntArray
    scores: FloatArray

    def problem_with(self, posts: IntArray, scores: FloatArray) -> str | None:
        """Describes the difference between a ranking and the expected one; None without any."""
        if not np.array_equal(posts, self.best):
            return f"posts {posts}, but the artifact gives {self.best}"
        if scores.shape != self.scores.shape or not np.allclose(scores, self.scores, 0, ROUNDING):
            return f"scores {scores}, but the artifact gives {self.scores}"
        return None


@dataclass(frozen=True, slots=True)
class Posts:
    """The posts to rank: ids int64 (n), image float16 (n, w) and caption float16 (n, w)."""

    ids: IntArray
    image: HalfArray
    caption: HalfArray

    @classmethod
    async def read(cls, connection: asyncpg.Connection, artifact: Artifact) -> Self:
        """All posts that are not deleted, in ascending order of id."""
        records = await connection.fetch(
            "select id, image_embedding::real[] as image, caption_embedding::real[] as caption"
            " from animora.posts where deleted_at is null order by id"
        )
        dimensions = artifact.manifest.dimensions
        return cls(
            np.array([record["id"] for record in records], np.int64),
            _embeddings([record["image"] for record in records], dimensions.image),
            _embeddings([record["caption"] for record in records], dimensions.caption),
        )

    def save(self, artifact: Artifact, folder: Path) -> None:
        """Writes the input of PostRanker."""
        (folder / "model.ts").write_bytes(artifact.model)
        (folder / "vocabulary.npz").write_bytes(artifact.vocabulary.to_npz())
        np.savez(folder / "posts.npz", ids=self.ids, image=self.image, caption=self.caption)


class QuerySampler:
    """Samples queries.

    Args:
        artifact: Gives the expected rankings.
        posts: Candidates are drawn from those with a table row or an embedding.
        users: int64 (n), ids to draw from; those outside the vocabulary are left out.
    """

    def __init__(self, artifact: Artifact, posts: Posts, users: IntArray) -> None:
        self._network = load_network(artifact.model, torch.device("cpu"))
        self._user_rows = RowIndex(artifact.vocabulary.user_ids)
        self._users = users[self._user_rows.rows(users) > 0]
        self._ids = posts.ids
        post_rows = RowIndex(artifact.vocabulary.post_ids).rows(posts.ids)  # int64 (n)
        has_features = (post_rows > 0) | posts.image.any(axis=1) | posts.caption.any(axis=1)
        self._candidates = np.flatnonzero(has_features)
        with torch.inference_mode():
            self._vectors = self._network.encode_posts(
                torch.from_numpy(post_rows),
                torch.from_numpy(posts.image.astype(np.float32)),
                torch.from_numpy(posts.caption.astype(np.float32)),
            )

    def queries(self, candidates: int, seed: int) -> Iterator[Query]:
        """An endless sequence of queries, decided by the seed.

        No query has posts whose order depends on rounding.
        """
        random = np.random.default_rng(seed)
        while True:
            user = int(random.choice(self._users))
            rows = random.choice(self._candidates, candidates, replace=False)
            logits = self._logits(user, rows)
            order = np.argsort(-logits)[: BEST + 1]
            if (np.diff(logits[order]) < -MIN_LOGIT_GAP).all():
                best = order[:BEST]
                ids = self._ids[rows]
                probabilities = torch.sigmoid(torch.from_numpy(logits[best])).numpy()
                yield Query(user, ids, ids[best], probabilities)

    @torch.inference_mode()
    def _logits(self, user: int, rows: IntArray) -> FloatArray:
        logits = self._network.score(
            torch.tensor([self._user_rows.row(user)]),
            torch.zeros(len(rows), dtype=torch.int64),
            self._vectors,
            torch.from_numpy(rows),
        )
        values: FloatArray = logits.numpy()
        return values


async def users_without_blocks(connection: asyncpg.Connection) -> IntArray:
    """Ids int64 (n), ascending, of users without blocks, for whom no candidate is dropped."""
    records = await connection.fetch(
        "select id from animora.users except select blocker_id from animora.blocks"
        " except select blocked_id from animora.blocks order by id"
    )
    return np.array([record["id"] for record in records], np.int64)


def _embeddings(values: Sequence[Sequence[float] | None], width: int) -> HalfArray:
    """Float16 (n, width), zeros where there is none."""
    embeddings = np.zeros((len(values), width), np.float16)
    for row, value in enumerate(values):
        if value is not None:
            embeddings[row] = value
    return embeddings
