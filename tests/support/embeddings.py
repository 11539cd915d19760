"""Converts between embedding batches and lists: None for null, [] for an unusable embedding."""

from collections.abc import Iterable, Sequence

import numpy as np

from animora_database.embeddings import NO_EMBEDDING, EmbeddingBatch


def column(values: Iterable[Sequence[float] | None]) -> EmbeddingBatch:
    """A batch from a list for each post."""
    embeddings = list(values)
    widths = np.array([NO_EMBEDDING if one is None else len(one) for one in embeddings], np.int64)
    blocks = {
        width: np.array([one for one in embeddings if one is not None and len(one) == width], np.float32)
        for width in set(widths.tolist()) - {NO_EMBEDDING, 0}
    }
    return EmbeddingBatch(widths, blocks)


def values(batch: EmbeddingBatch) -> list[list[float] | None]:
    """A list for each post, the inverse of `column`."""
    rows = {width: iter(block.tolist()) for width, block in batch.blocks.items()}
    return [
        None if width == NO_EMBEDDING else next(rows[width]) if width > 0 else []
        for width in batch.widths.tolist()
    ]
