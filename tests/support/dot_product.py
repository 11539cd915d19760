"""A small version whose network has just the methods that the contract demands."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import torch
from torch import Tensor, nn

from animora_artifact import Artifact, Golden, Manifest, Vocabulary
from animora_artifact.manifest import DataWindow, Dimensions
from animora_artifact.network import save_network

USERS, POSTS = (30, 10, 20), (5, 400, 7, -1)


class DotProduct(nn.Module):
    """Scores by the dot product of a user's and a post's vector."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.users = nn.Parameter(torch.randn(len(USERS) + 1, 2, generator=generator), requires_grad=False)
        self.posts = nn.Parameter(torch.randn(len(POSTS) + 1, 2, generator=generator), requires_grad=False)

    @torch.jit.export
    def encode_posts(self, post_rows: Tensor, image: Tensor, caption: Tensor) -> Tensor:
        return self.posts[post_rows] + image.sum(dim=1, keepdim=True) + caption.sum(dim=1, keepdim=True)

    @torch.jit.export
    def score(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> Tensor:
        return (self.users[user_rows][segments] * post_table[post_index]).sum(dim=1)

    @torch.jit.export
    def explain(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> Tensor:
        logits = self.score(user_rows, segments, post_table, post_index)
        return torch.stack((logits, torch.zeros_like(logits), torch.zeros_like(logits)), dim=1)


def golden_of(network: DotProduct) -> Golden:
    generator = np.random.default_rng(0)
    rows, segments, index = np.array([1, 3]), np.array([0, 0, 1, 1]), np.array([0, 1, 1, 2])
    posts = np.array([0, 2, 4])
    image, caption = (generator.normal(size=(3, width)).astype(np.float32) for width in (3, 2))
    with torch.inference_mode():
        table = network.encode_posts(*(torch.from_numpy(array) for array in (posts, image, caption)))
        logits = network.score(
            torch.from_numpy(rows), torch.from_numpy(segments), table, torch.from_numpy(index)
        )
    return Golden(rows, segments, posts, image, caption, index, torch.sigmoid(logits).numpy())


def make_artifact(version: str = "20260101T000000Z-abcdef", age: timedelta = timedelta()) -> Artifact:
    network = DotProduct()
    moment = datetime(2026, 1, 1, tzinfo=UTC) - age
    manifest = Manifest(
        version=version,
        created_at=moment,
        dimensions=Dimensions(
            users=4, posts=5, factors=2, mlp_embedding=2, hidden=(2,), image=3, caption=2, post_vector=2
        ),
        data_window=DataWindow(start=moment, end=moment, interactions=12),
        files={},
    )
    vocabulary = Vocabulary(np.array(USERS), np.array(POSTS))
    return Artifact(manifest, save_network(network), vocabulary, golden_of(network))


def with_manifest(artifact: Artifact, **changes: object) -> Artifact:
    """The artifact with some fields of its manifest changed."""
    return replace(artifact, manifest=artifact.manifest.model_copy(update=changes))
