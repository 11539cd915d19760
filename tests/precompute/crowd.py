"""More users than a chunk holds, and a random network of the default size that knows most of them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import asyncpg
import numpy as np
import torch

from animora_artifact import Artifact, Golden, Manifest, Vocabulary
from animora_artifact.manifest import DataWindow, Dimensions
from animora_artifact.network import save_network
from animora_training.modeling.network import NetworkShape, NeuCF
from animora_training.pipeline.export import FoldedNeuCF
from tests.support.networks import randomised

USERS = np.arange(1, 701)
TRAINED = USERS[:600]
POSTS = np.arange(1000, 1400)
WIDTH = 24


async def fill(url: str) -> None:
    """Fills a database that has the schema."""
    random = np.random.default_rng(3)
    now = datetime.now(UTC)
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("insert into animora_app.users select unnest($1::bigint[])", USERS.tolist())
        await connection.executemany(
            "insert into animora_app.posts"
            " (id, author_id, created_at, image_embedding, caption_embedding) values ($1, $2, $3, $4, $5)",
            [
                (
                    int(post),
                    int(random.choice(USERS)),
                    # A few posts share each time, so that only their ids tell which is first.
                    now - timedelta(hours=row // 4),
                    random.normal(size=WIDTH).tolist(),
                    random.normal(size=WIDTH).tolist(),
                )
                for row, post in enumerate(POSTS)
            ],
        )
        pairs = {(int(random.choice(USERS)), int(random.choice(POSTS))) for _ in range(3000)}
        await connection.executemany(
            "insert into animora_app.likes (user_id, post_id, created_at) values ($1, $2, $3)",
            [(user, post, now - timedelta(minutes=user)) for user, post in pairs],
        )
    finally:
        await connection.close()


def artifact(version: str) -> Artifact:
    """A version that knows the trained users and half of the posts."""
    known = POSTS[::2]
    shape = NetworkShape(
        users=len(TRAINED) + 1,
        posts=len(known) + 1,
        factors=8,
        mlp_embedding=32,
        hidden=(32, 16, 8),
        feature_width=32,
        image=WIDTH,
        caption=WIDTH,
    )
    network = FoldedNeuCF(randomised(NeuCF(shape))).eval()
    golden = Golden(
        user_rows=np.array([1, 2], np.int64),
        segments=np.array([0, 0, 1], np.int64),
        post_rows=np.arange(3),
        image=np.zeros((3, WIDTH), np.float32),
        caption=np.zeros((3, WIDTH), np.float32),
        post_index=np.arange(3),
        probabilities=np.empty(0, np.float32),
    )
    with torch.inference_mode():
        table = network.encode_posts(*map(torch.from_numpy, (golden.post_rows, golden.image, golden.caption)))
        logits = network.score(
            torch.from_numpy(golden.user_rows),
            torch.from_numpy(golden.segments),
            table,
            torch.from_numpy(golden.post_index),
        )
    golden = replace(golden, probabilities=torch.sigmoid(logits).numpy())
    dimensions = Dimensions(
        users=shape.users,
        posts=shape.posts,
        factors=shape.factors,
        mlp_embedding=shape.mlp_embedding,
        hidden=shape.hidden,
        image=WIDTH,
        caption=WIDTH,
        post_vector=shape.post_vector,
    )
    manifest = Manifest(
        version=version,
        created_at=datetime.now(UTC),
        dimensions=dimensions,
        data_window=DataWindow(start=None, end=None, interactions=0),
        files={},
    )
    return Artifact(manifest, save_network(network), Vocabulary(TRAINED, known), golden)
