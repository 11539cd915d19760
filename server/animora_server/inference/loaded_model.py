"""What is on a device of this process: models and post tables."""

from dataclasses import dataclass

import torch

from animora_artifact import Manifest
from animora_artifact.compiled import CompiledNetwork
from animora_artifact.network import Network
from animora_artifact.vocabulary import RowIndex
from animora_server.inference.graph_capture import CapturedScorer
from animora_server.types import HalfArray


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A verified model on a device, not bound to any catalog. See protocols.Model.

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

    def features(self, image: HalfArray, caption: HalfArray) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings float16 (n, w) as the network takes them; see as_features."""
        dimensions = self.manifest.dimensions
        return (
            as_features(image, dimensions.image, self.device, self.dtype),
            as_features(caption, dimensions.caption, self.device, self.dtype),
        )


def as_features(embeddings: HalfArray, width: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Embeddings float16 (n, w) as a model takes them: floating (n, width), zeros if the width is another."""
    if embeddings.shape[1] == width and width:
        return torch.from_numpy(embeddings).to(device, dtype)
    return torch.zeros((len(embeddings), width), device=device, dtype=dtype)


@dataclass(frozen=True, slots=True)
class PostVectors:
    """Post vectors on the device: `vectors` floating (capacity, d), of which [0, rows) are encoded.

    See protocols.Table.

    Encoded rows never change, so a table may be read while rows are appended. One that must grow is
    replaced by a larger copy.

    Attributes:
        vectors: The memory.
        rows: How many are encoded.
        captured: A model's scores with it, where they were recorded.
    """

    vectors: torch.Tensor
    rows: int
    captured: CapturedScorer | None = None
