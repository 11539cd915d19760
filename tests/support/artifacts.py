"""Tiny artifacts whose scores can be computed by hand."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from animora_artifact import Artifact, FolderStore, Golden, Manifest, Vocabulary
from animora_artifact.manifest import DataWindow, Dimensions
from animora_artifact.network import save_network

USERS = np.array([7, 8, 9], np.int64)
POSTS = np.array([100, 200, 300, 400], np.int64)
WIDTH = 4


class TinyNetwork(nn.Module):
    """logit = user vector · (post vector + image + caption); each half of the product is one branch."""

    def __init__(self, seed: int, image: int, caption: int, users: int = len(USERS)) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.users = nn.Parameter(torch.randn(users + 1, WIDTH, generator=generator))
        self.posts = nn.Parameter(torch.randn(len(POSTS) + 1, WIDTH, generator=generator))
        self.image = nn.Parameter(torch.randn(image, WIDTH, generator=generator))
        self.caption = nn.Parameter(torch.randn(caption, WIDTH, generator=generator))

    def forward(self, user_rows: Tensor, vectors: Tensor) -> Tensor:
        return (self.users[user_rows] * vectors).sum(dim=1)

    @torch.jit.export
    def encode_posts(self, post_rows: Tensor, image: Tensor, caption: Tensor) -> Tensor:
        return self.posts[post_rows] + image @ self.image + caption @ self.caption

    @torch.jit.export
    def score(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> Tensor:
        return self.forward(user_rows[segments], post_table[post_index])

    @torch.jit.export
    def explain(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> Tensor:
        products = self.users[user_rows][segments] * post_table[post_index]
        gmf, mlp = products[:, :2].sum(dim=1), products[:, 2:].sum(dim=1)
        bias = torch.full_like(gmf, 0.25)
        return torch.stack((gmf, mlp - bias, bias), dim=1)


class DoublesWithoutEnd(TinyNetwork):
    """Allocates until there is no memory left."""

    @torch.jit.export
    def score(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> Tensor:
        while post_table.numel() > 0:
            post_table = torch.cat([post_table, post_table])
        return self.forward(user_rows[segments], post_table[post_index])


def tiny_artifact(
    version: str,
    seed: int = 0,
    image: int = 3,
    caption: int = 2,
    users: np.ndarray = USERS,
    network_type: type[TinyNetwork] = TinyNetwork,
) -> tuple[Artifact, TinyNetwork]:
    """An artifact, and the eager network that was scripted for it."""
    network = network_type(seed, image, caption, len(users)).eval()
    rows = np.arange(len(POSTS) + 1)
    golden = Golden(
        user_rows=np.array([1, 3], np.int64),
        segments=np.repeat(np.arange(2), len(rows)),
        post_rows=rows,
        image=np.full((len(rows), image), 0.5, np.float32),
        caption=np.zeros((len(rows), caption), np.float32),
        post_index=np.tile(rows, 2),
        probabilities=np.empty(0, np.float32),
    )
    with torch.inference_mode():
        table = network.encode_posts(*map(torch.from_numpy, (rows, golden.image, golden.caption)))
        logits = network.score(
            torch.from_numpy(golden.user_rows),
            torch.from_numpy(golden.segments),
            table,
            torch.from_numpy(golden.post_index),
        )
    replayed = Golden(
        **{
            name: getattr(golden, name)
            for name in ("user_rows", "segments", "post_rows", "image", "caption", "post_index")
        },
        probabilities=torch.sigmoid(logits).numpy(),
    )
    manifest = Manifest(
        version=version,
        created_at=datetime.now(UTC),
        dimensions=Dimensions(
            users=len(users) + 1,
            posts=len(POSTS) + 1,
            factors=WIDTH,
            mlp_embedding=1,
            hidden=(1,),
            image=image,
            caption=caption,
            post_vector=WIDTH,
        ),
        data_window=DataWindow(start=None, end=None, interactions=0),
        files={},
    )
    return Artifact(manifest, save_network(network), Vocabulary(users, POSTS), replayed), network


def active_store(folder: Path) -> FolderStore:
    """A model store with version v1 active."""
    store = FolderStore(folder)
    store.publish(tiny_artifact("v1", seed=1)[0])
    store.activate("v1")
    return store
