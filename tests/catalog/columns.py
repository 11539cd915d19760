"""Columns of embeddings, made of lists and read as lists: None for null, [] for what cannot be used."""

from collections.abc import Iterable, Sequence

import numpy as np

from animora_server.catalog import NO_EMBEDDING, EmbeddingBatch


def column(values: Iterable[Sequence[float] | None]) -> EmbeddingBatch:
    """The embeddings of some posts."""
    embeddings = list(values)
    widths = np.array([NO_EMBEDDING if one is None else len(one) for one in embeddings], np.int64)
    blocks = {
        width: np.array([one for one in embeddings if one is not None and len(one) == width], np.float32)
        for width in set(widths.tolist()) - {NO_EMBEDDING, 0}
    }
    return EmbeddingBatch(widths, blocks)


def values(of: EmbeddingBatch) -> list[list[float] | None]:
    """What `column` was made of."""
    rows = {width: iter(block.tolist()) for width, block in of.blocks.items()}
    return [
        None if width == NO_EMBEDDING else next(rows[width]) if width else [] for width in of.widths.tolist()
    ]
