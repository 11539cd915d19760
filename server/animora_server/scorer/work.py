"""What is done on a device, and with what: models, post tables, and the works that batches are made of."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from animora_artifact import Manifest
from animora_artifact.compiled import CompiledNetwork
from animora_artifact.network import Network
from animora_artifact.vocabulary import RowIndex
from animora_server.catalog import CatalogSnapshot, EmbeddingFile
from animora_server.scorer.explanation import COALITIONS
from animora_server.scorer.recorded import RecordedScores
from animora_server.types import BoolArray, HalfArray, IntArray
from animora_server.values import value


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A verified model on a device, not bound to any catalog.

    Attributes:
        manifest: What it is.
        network: On the device, with weights of the dtype.
        users: Rows of users.
        posts: Rows of posts.
        device: Where it is.
        dtype: Of its arithmetic.
    """

    manifest: Manifest
    network: Network
    users: RowIndex
    posts: RowIndex
    device: torch.device
    dtype: torch.dtype

    @property
    def compiled(self) -> bool:
        """Whether compiled code scores, and not TorchScript."""
        return isinstance(self.network, CompiledNetwork)

    def informed(self, snapshot: CatalogSnapshot, rows: IntArray, post_rows: IntArray) -> BoolArray:
        """Bool (m): whether it knows the id or an embedding of posts.

        Args:
            snapshot: The catalog.
            rows: int64 (m), the posts' rows in it.
            post_rows: int64 (m), their rows in the vocabulary, 0 unknown.
        """
        informed = np.greater(post_rows, 0)
        if self.manifest.dimensions.image or self.manifest.dimensions.caption:
            informed |= snapshot.has_embeddings(rows)
        return informed

    def features(self, image: HalfArray, caption: HalfArray) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings float16 (n, w) as the network takes them; see as_features."""
        dimensions = self.manifest.dimensions
        return (
            as_features(image, dimensions.image, self.device, self.dtype),
            as_features(caption, dimensions.caption, self.device, self.dtype),
        )


def as_features(embeddings: HalfArray, width: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Embeddings float16 (n, w) as a model takes them: floating (n, width), absent ones as zeros."""
    if embeddings.shape[1] and width:
        return torch.from_numpy(embeddings).to(device, dtype)
    return torch.zeros((len(embeddings), width), device=device, dtype=dtype)


@dataclass(frozen=True, slots=True)
class PostTable:
    """Post vectors on the device: `vectors` floating (capacity, d), of which [0, rows) are encoded.

    Encoded rows never change, so a table may be read while rows are appended. One that must grow is
    replaced by a larger copy.

    Attributes:
        vectors: The memory.
        rows: How many are encoded.
        recorded: A model's scores with it, where they were recorded.
    """

    vectors: torch.Tensor
    rows: int
    recorded: RecordedScores | None = None


@value
class ScoreWork:
    """Pairs of one user with posts, of one model and post table.

    Attributes:
        user_row: The user's row in the model.
        rows: int64 (m), the posts' rows in the post table.
    """

    network: Network
    table: PostTable
    user_row: int
    rows: IntArray

    @property
    def key(self) -> tuple[int, int]:
        """Equal for works that can share a batch: one network and one piece of device memory."""
        return id(self.network), id(self.table.vectors)


@value
class ExplainWork:
    """Posts whose terms with one user are wanted: float32 (m, 8).

    Attributes:
        user_row: The user's row in the model.
        post_rows: int64 (m), the posts' rows in the model.
        rows: int64 (m), the posts' rows in the catalog.
        embeddings: Image and caption embeddings by catalog row.
    """

    model: LoadedModel
    user_row: int
    post_rows: IntArray
    rows: IntArray
    embeddings: EmbeddingFile

    @property
    def size(self) -> int:
        """Rows that the network runs through."""
        return len(self.rows) * len(COALITIONS)

    @property
    def key(self) -> int:
        """Equal to no other work's: each is a batch of its own, whose terms depend on no neighbour."""
        return id(self)


Work: TypeAlias = ScoreWork | ExplainWork
