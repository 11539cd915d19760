"""Small catalog snapshots for tests."""

import math
import time
from collections.abc import Mapping

import numpy as np
import torch

from animora_server.catalog import CatalogSnapshot, CsrIndex, EmbeddingFile, FeedIndex, IdMap, Relations
from animora_server.catalog.embeddings import fingerprints

NOW = 1_700_000_000.0


def snapshot(
    posts: Mapping[int, Mapping[str, float]],
    blocks: list[tuple[int, int]] | None = None,
    seen: list[tuple[int, int]] | None = None,
    block_age: float | None = None,
) -> CatalogSnapshot:
    """A snapshot of posts by id: `author`, `age` in seconds, `likes`, `deleted`, `fingerprint`.

    `arrived` is how many seconds before NOW the catalog received a post; it never grows from post to post.
    Without `block_age`, in seconds, the blocks never become old: a module may make its snapshot long before
    a test uses it.
    """
    ids = np.array(list(posts), np.int64)
    fields = list(posts.values())
    likes = np.array([post.get("likes", 0) for post in fields], np.int64)
    created_at = np.array([NOW - post.get("age", 0) for post in fields], np.float64)
    deleted = np.array([bool(post.get("deleted", 0)) for post in fields], np.bool_)
    pairs = np.array(blocks or [], np.int64).reshape(-1, 2)
    views = np.array(seen or [], np.int64).reshape(-1, 2)
    return CatalogSnapshot(
        epoch=1,
        post_ids=ids,
        author_ids=np.array([post.get("author", 1000) for post in fields], np.int64),
        created_at=created_at,
        deleted=deleted,
        interactions=likes,
        fingerprints=np.array([post.get("fingerprint", 1) for post in fields], np.int64),
        max_interactions=int(likes[~deleted].max(initial=0)),
        arrived_at=np.array([NOW - post.get("arrived", 0) for post in fields], np.float64),
        embeddings=EmbeddingFile(None, 0, 0),
        read_at=NOW,
        posts_read_at=time.monotonic(),
        blocks_read_at=math.inf if block_age is None else time.monotonic() - block_age,
        feed=FeedIndex.of(created_at, np.flatnonzero(~deleted)),
        index=IdMap.of(ids, np.arange(len(ids))),
        relations=Relations.of(pairs[:, 0], pairs[:, 1]),
        seen_base=CsrIndex.of(views[:, 0], views[:, 1]),
        seen_recent=CsrIndex.empty(),
    )


class GrowingCatalog:
    """A growing catalog whose posts have random embeddings; every fourth post has none."""

    def __init__(self, image: int = 3, caption: int = 2, epoch: int = 1):
        self.random = np.random.default_rng(epoch)
        self.epoch = epoch
        self.embeddings = EmbeddingFile(None, image, caption)
        self.image = np.empty((0, image), np.float16)
        self.caption = np.empty((0, caption), np.float16)
        self.post_ids = np.empty(0, np.int64)

    def grow(self, post_ids) -> CatalogSnapshot:
        image = self.random.normal(size=(len(post_ids), self.image.shape[1])).astype(np.float16)
        caption = self.random.normal(size=(len(post_ids), self.caption.shape[1])).astype(np.float16)
        image[::4] = 0
        caption[::4] = 0
        self.embeddings.write(len(self.post_ids), image, caption)
        self.image = np.concatenate((self.image, image))
        self.caption = np.concatenate((self.caption, caption))
        self.post_ids = np.concatenate((self.post_ids, np.array(post_ids, np.int64)))
        rows = len(self.post_ids)
        return CatalogSnapshot(
            epoch=self.epoch,
            post_ids=self.post_ids,
            author_ids=np.zeros(rows, np.int64),
            created_at=np.zeros(rows),
            deleted=np.zeros(rows, np.bool_),
            interactions=np.zeros(rows, np.int64),
            fingerprints=fingerprints(self.image, self.caption),
            max_interactions=0,
            arrived_at=np.zeros(rows),
            embeddings=self.embeddings,
            read_at=0.0,
            feed=FeedIndex.of(np.zeros(rows), np.arange(rows)),
            posts_read_at=time.monotonic(),
            blocks_read_at=time.monotonic(),
            index=IdMap.of(self.post_ids, np.arange(rows)),
            relations=Relations.empty(),
            seen_base=CsrIndex.empty(),
            seen_recent=CsrIndex.empty(),
        )

    def eager(self, network, vocabulary, user_row, rows):
        """The logits of the eager network for the same inputs."""
        post_rows = [
            int(np.flatnonzero(vocabulary.post_ids == post)[0]) + 1 if post in vocabulary.post_ids else 0
            for post in self.post_ids[rows]
        ]
        with torch.inference_mode():
            vectors = network.encode_posts(
                torch.tensor(post_rows),
                torch.from_numpy(self.image[rows].astype(np.float32)),
                torch.from_numpy(self.caption[rows].astype(np.float32)),
            )
            return network.forward(torch.full((len(rows),), user_row), vectors).numpy()
