"""The small feed: its users and posts, and the eager network's scores of them."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg
import numpy as np
import torch

from animora_demo.embedded import apply_schema
from tests.support.artifacts import POSTS, TinyNetwork

TRAINED_USERS = (7, 8, 9)
COLD_USER = 500
AUTHORS = (1000, 1001, 1002, 1003)
NEW_POSTS = range(5000, 5060)  # unknown to the model


@dataclass(frozen=True, slots=True)
class Feed:
    """Posts int64 (p) with image float32 (p, 3) and caption float32 (p, 2), in a database."""

    url: str
    post_ids: np.ndarray
    image: np.ndarray
    caption: np.ndarray

    def probabilities(self, network: TinyNetwork, user_id: int) -> dict[int, float]:
        """The eager network's probability of every post for a trained user."""
        known = {int(post): row + 1 for row, post in enumerate(POSTS)}
        rows = torch.tensor([known.get(int(post), 0) for post in self.post_ids])
        user = torch.full((len(rows),), TRAINED_USERS.index(user_id) + 1)
        with torch.inference_mode():
            vectors = network.encode_posts(rows, torch.from_numpy(self.image), torch.from_numpy(self.caption))
            values = torch.sigmoid(network.forward(user, vectors)).tolist()
        return dict(zip(self.post_ids.tolist(), values, strict=True))


async def fill(url: str) -> Feed:
    """Fills a database; creates the schema if it is absent."""
    await apply_schema(url)
    random = np.random.default_rng(5)
    post_ids = np.array([*POSTS, *NEW_POSTS], np.int64)
    image = random.normal(size=(len(post_ids), 3)).astype(np.float16).astype(np.float32)
    caption = random.normal(size=(len(post_ids), 2)).astype(np.float16).astype(np.float32)
    now = datetime.now(UTC)
    connection = await asyncpg.connect(url)
    try:
        await connection.executemany(
            "INSERT INTO animora_app.users (id) VALUES ($1)",
            [(user,) for user in (*TRAINED_USERS, COLD_USER, *AUTHORS)],
        )
        await connection.executemany(
            "INSERT INTO animora_app.posts"
            " (id, author_id, caption, created_at, image_embedding, caption_embedding)"
            " VALUES ($1, $2, $3, $4, $5, $6)",
            [
                (
                    int(post),
                    AUTHORS[row % len(AUTHORS)],
                    f"Post {post}",
                    now - timedelta(hours=row),
                    image[row].tolist(),
                    caption[row].tolist(),
                )
                for row, post in enumerate(post_ids)
            ],
        )
        await connection.executemany(
            "INSERT INTO animora_app.likes (user_id, post_id, created_at) VALUES ($1, $2, $3)",
            [
                (user, int(post), now)
                for user in TRAINED_USERS
                for post in random.choice(post_ids, 5, replace=False)
            ],
        )
    finally:
        await connection.close()
    return Feed(url, post_ids, image, caption)
