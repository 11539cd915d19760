"""Decodes embeddings from PostgreSQL's binary format, many at a time.

See `array_send` of PostgreSQL, `vector_send` and `halfvec_send` of pgvector. Everything is big-endian.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from animora_database.errors import UnusableView

IntArray = npt.NDArray[np.int64]
Halves = npt.NDArray[np.float16]
Fields = npt.NDArray[np.uint8]
Decoded = tuple[npt.NDArray[np.floating[Any]], npt.NDArray[np.bool_]]

# Decodes fields of one length, uint8 (m, length), to embeddings floating (m, width) and a mask of usable
# ones, bool (m). Raises UnusableView if a field has another type.
Decoder = Callable[[Fields], Decoded]

ARRAY = np.dtype(
    [("dimensions", ">i4"), ("has_nulls", ">i4"), ("type", ">i4"), ("length", ">i4"), ("lower_bound", ">i4")]
)
ARRAY_START = 12  # bytes of an array without elements
MAX_DIMENSIONS = 6
REAL, DOUBLE = 700, 701  # PostgreSQL's numbers of the elements' types
VECTOR_HEADER = 4  # bytes: int16 the number of elements, and two that are not used

NO_EMBEDDING = -1  # the width of a null embedding
UNUSABLE = -2  # the width of an array with several dimensions or a null
CHANGED = (
    "animora.posts was changed while it was read: an embedding is not {} of the type that its column had"
)
INFINITY_BITS = 0x7C00  # of float16; the bits of NaN are larger


@dataclass(frozen=True, slots=True)
class EmbeddingBatch:
    """The image or the caption embeddings of k posts as the database has them, grouped by width.

    Attributes:
        widths: int64 (k): 0 for an empty embedding, UNUSABLE, or NO_EMBEDDING for null.
        blocks: The embeddings of each width, in the posts' order: floating (m, width).
    """

    widths: IntArray
    blocks: Mapping[int, npt.NDArray[np.floating[Any]]]

    def take(self, at: IntArray) -> "EmbeddingBatch":
        """The embeddings at positions int64 (j)."""
        if np.array_equal(at, np.arange(len(self.widths))):
            return self
        widths = self.widths[at]
        blocks = {}
        for width, block in self.blocks.items():
            place = np.cumsum(self.widths == width) - 1  # int64 (k), each post's row in the block
            blocks[width] = block[place[at[widths == width]]]
        return EmbeddingBatch(widths, blocks)


def decode_column(decode: Decoder, data: Fields, at: IntArray, lengths: IntArray) -> EmbeddingBatch:
    """Decodes the embeddings at offsets `at` and of `lengths`, int64 (k) each, in `data` uint8 (n).

    Raises:
        UnusableView: An embedding has another type than its column had.
    """
    widths = np.full(len(at), NO_EMBEDDING)
    blocks = {}
    for length in np.unique(lengths[lengths >= 0]).tolist():
        which = np.flatnonzero(lengths == length)
        embeddings, usable = decode(gather(data, at[which], length))
        width = embeddings.shape[1]
        widths[which] = np.where(usable, width, UNUSABLE if width else 0)
        if usable.any():
            blocks[width] = embeddings if usable.all() else embeddings[usable]
    return EmbeddingBatch(widths, blocks)


def gather(data: Fields, at: IntArray, length: int) -> Fields:
    """Copies the fields of one length at offsets `at` int64 (k) in `data` uint8 (n): uint8 (k, length)."""
    if not len(at):
        return np.empty((0, length), np.uint8)
    return np.lib.stride_tricks.sliding_window_view(data, length)[at]


def to_halves(embeddings: npt.NDArray[np.floating[Any]]) -> tuple[Halves, npt.NDArray[np.bool_]]:
    """Rounds embeddings (m, width) to float16, and which of them are finite then: bool (m)."""
    with np.errstate(over="ignore"):  # a number beyond float16 becomes infinite
        halves = embeddings.astype(np.float16)
    return halves, magnitude_bits(halves) < INFINITY_BITS


def magnitude_bits(rows: Halves) -> npt.NDArray[np.uint16]:
    """The bits of the largest absolute value in each row of float16 (n, w): uint16 (n).

    Bits ascend with the values. So 0 is a row of zeros, and a row that is not finite has at least
    INFINITY_BITS; np.isfinite takes five times as long.
    """
    most: npt.NDArray[np.uint16] = np.bitwise_and(rows.view(np.uint16), 0x7FFF).max(axis=1, initial=0)
    return most


def _decode_array(fields: Fields, element_type: int, dtype: str) -> Decoded:
    count, length = fields.shape
    start = fields[:, :ARRAY_START].view(">i4") if length >= ARRAY_START else np.zeros((count, 3), np.int32)
    if not np.all((start[:, 2] == element_type) & (start[:, 0] >= 0) & (start[:, 0] <= MAX_DIMENSIONS)):
        raise UnusableView(CHANGED.format("an array"))
    element = np.dtype([("length", ">i4"), ("value", dtype)])
    width = (length - ARRAY.itemsize) // element.itemsize
    if width <= 0:
        return np.empty((count, 0), np.float32), np.zeros(count, np.bool_)
    header = fields[:, : ARRAY.itemsize].view(ARRAY)[:, 0]
    usable = (header["dimensions"] == 1) & (header["has_nulls"] == 0) & (header["length"] == width)
    end = ARRAY.itemsize + width * element.itemsize
    return fields[:, ARRAY.itemsize : end].view(element)["value"], usable


def _decode_vector(fields: Fields, dtype: str) -> Decoded:
    count, length = fields.shape
    width = (length - VECTOR_HEADER) // np.dtype(dtype).itemsize
    if width <= 0 or not np.all(fields[:, :2].view(">i2")[:, 0] == width):
        raise UnusableView(CHANGED.format("a vector"))
    return fields[:, VECTOR_HEADER:].view(dtype), np.ones(count, np.bool_)


# By type name in pg_type. Arrays with several dimensions or nulls are not usable.
DECODERS: dict[str, Decoder] = {
    "_float4": partial(_decode_array, element_type=REAL, dtype=">f4"),
    "_float8": partial(_decode_array, element_type=DOUBLE, dtype=">f8"),
    "vector": partial(_decode_vector, dtype=">f4"),
    "halfvec": partial(_decode_vector, dtype=">f2"),
}
