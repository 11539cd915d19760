"""Decodes embeddings from PostgreSQL's binary format, many at a time.

See `array_send` of PostgreSQL, `vector_send` and `halfvec_send` of pgvector. Everything is big-endian.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

Fields = npt.NDArray[np.uint8]
Decoded = tuple[npt.NDArray[np.floating[Any]], npt.NDArray[np.bool_]]

# Decodes fields of one length, uint8 (m, length), to embeddings floating (m, width) and a mask of usable
# ones, bool (m). Raises ValueError if a field has another type.
Decoder = Callable[[Fields], Decoded]

ARRAY = np.dtype(
    [("dimensions", ">i4"), ("has_nulls", ">i4"), ("type", ">i4"), ("length", ">i4"), ("lower_bound", ">i4")]
)
ARRAY_START = 12  # bytes of an array without elements
MAX_DIMENSIONS = 6
REAL, DOUBLE = 700, 701  # PostgreSQL's numbers of the elements' types
VECTOR_HEADER = 4  # bytes: int16 the number of elements, and two that are not used


def _decode_array(fields: Fields, element_type: int, dtype: str) -> Decoded:
    count, length = fields.shape
    start = fields[:, :ARRAY_START].view(">i4") if length >= ARRAY_START else np.zeros((count, 3), np.int32)
    if not np.all((start[:, 2] == element_type) & (start[:, 0] >= 0) & (start[:, 0] <= MAX_DIMENSIONS)):
        raise ValueError("an embedding is not an array of the type that its column had")
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
        raise ValueError("an embedding is not a vector of the type that its column had")
    return fields[:, VECTOR_HEADER:].view(dtype), np.ones(count, np.bool_)


# By type name in pg_type. Arrays with several dimensions or nulls are not usable.
DECODERS: dict[str, Decoder] = {
    "_float4": partial(_decode_array, element_type=REAL, dtype=">f4"),
    "_float8": partial(_decode_array, element_type=DOUBLE, dtype=">f8"),
    "vector": partial(_decode_vector, dtype=">f4"),
    "halfvec": partial(_decode_vector, dtype=">f2"),
}
