"""A model and its table of post vectors on the device of this process."""

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
    """A verified model on a device, not encoded for any catalog. See protocols.Model.

    Attributes:
        manifest: The version's manifest.
        network: The network on `device`, with weights of `dtype`.
        users: Vocabulary rows of user ids.
        posts: Vocabulary rows of post ids.
        device: The device that holds the weights.
        dtype: The floating type of weights, features and post vectors.
    """

    manifest: Manifest
    network: Network
    users: RowIndex
    posts: RowIndex
    device: torch.device
    dtype: torch.dtype

    @property
    def compiled(self) -> bool:
        """Whether native code scores instead of TorchScript."""
        return isinstance(self.network, CompiledNetwork)

    def features(self, image: HalfArray, caption: HalfArray) -> tuple[torch.Tensor, torch.Tensor]:
        """The network's inputs for image float16 (n, w) and caption float16 (n, v); see as_features."""
        dimensions = self.manifest.dimensions
        return (
            as_features(image, dimensions.image, self.device, self.dtype),
            as_features(caption, dimensions.caption, self.device, self.dtype),
        )


def as_features(embeddings: HalfArray, width: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """A model's input floating (n, width) for embeddings float16 (n, w): zeros if w differs from width."""
    if embeddings.shape[1] == width and width:
        return torch.from_numpy(embeddings).to(device, dtype)
    return torch.zeros((len(embeddings), width), device=device, dtype=dtype)


@dataclass(frozen=True, slots=True)
class PostVectors:
    """A table of post vectors on the device. See protocols.DeviceTable.

    Encoded rows never change, so a table may be read while rows are appended. A table that must grow is
    replaced by a larger copy.

    Attributes:
        vectors: floating (capacity, d).
        rows: Rows [0, rows) are encoded.
        captured: Scores with this table by CUDA graphs; None where batches are executed eagerly.
    """

    vectors: torch.Tensor
    rows: int
    captured: CapturedScorer | None = None
