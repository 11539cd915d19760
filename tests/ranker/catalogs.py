"""Small catalog snapshots for tests."""

import time
from collections.abc import Mapping

import numpy as np

from animora_server.catalog import CatalogSnapshot, CsrIndex, EmbeddingFile, FeedIndex, IdMap, Relations

NOW = 1_700_000_000.0


def snapshot(
    posts: Mapping[int, Mapping[str, float]],
    blocks: list[tuple[int, int]] | None = None,
    seen: list[tuple[int, int]] | None = None,
    block_age: float = 0.0,
) -> CatalogSnapshot:
    """A snapshot of posts by id: `author`, `age` in seconds, `likes`, `deleted`, `fingerprint`.

    `arrived` is how many seconds before NOW the catalog received a post; it never grows from post to post.
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
        blocks_read_at=time.monotonic() - block_age,
        feed=FeedIndex.of(created_at, np.flatnonzero(~deleted)),
        index=IdMap.of(ids, np.arange(len(ids))),
        relations=Relations.of(pairs[:, 0], pairs[:, 1]),
        seen_base=CsrIndex.of(views[:, 0], views[:, 1]),
        seen_recent=CsrIndex.empty(),
    )
