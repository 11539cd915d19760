"""Decodes PostgreSQL's binary COPY format into arrays, without a Python object for each value.

See "Binary Format" in PostgreSQL's documentation of COPY. Everything is big-endian: a header, then for each
row the number of fields and for each field a length (-1 for null) and bytes, then a trailer.
"""

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from animora_database.embeddings import Decoder
from animora_server.catalog import NO_EMBEDDING, EmbeddingBatch, EmbeddingRecords
from animora_server.errors import StoreError
from animora_server.types import IntArray

TRAILER = b"\xff\xff"

_HEADER = struct.Struct(">11sII")  # signature, flags, length of the extension
_LENGTH = struct.Struct(">i")
_EMBEDDINGS = struct.Struct(">hiqi")  # number of fields, length of the id, the id, length of the image


def without_header(data: bytes) -> bytes:
    """The bytes after the header, given the first bytes of a COPY."""
    _, _, extension = _HEADER.unpack_from(data)
    return data[_HEADER.size + extension :]


class FixedColumns:
    """Collects columns of fixed width without nulls, part by part.

    Args:
        types: NumPy's big-endian type of each column.
    """

    def __init__(self, types: tuple[str, ...]) -> None:
        self._row = np.dtype(
            [("fields", ">i2")]
            + [(f"{kind}{n}", dtype) for n, one in enumerate(types) for kind, dtype in _field(one)]
        )
        # The required values of the fields that are not column values.
        self._expected = {"fields": len(types)} | {
            f"length{n}": np.dtype(one).itemsize for n, one in enumerate(types)
        }
        native = [np.dtype(one).newbyteorder("=") for one in types]
        self._columns: list[list[npt.NDArray[Any]]] = [[np.empty(0, one)] for one in native]

    def feed(self, data: bytes) -> bytes:
        """Decodes the whole rows in `data`; returns the rest.

        Raises:
            StoreError: A field is null or has another width than its column.
        """
        rows = np.frombuffer(data, self._row, len(data) // self._row.itemsize)
        for name, expected in self._expected.items():
            if not np.all(rows[name] == expected):
                raise StoreError("a view gives a null, or a type, that it must not give")
        for n, parts in enumerate(self._columns):
            parts.append(rows[f"value{n}"].astype(parts[0].dtype))
        return data[len(rows) * self._row.itemsize :]

    def columns(self) -> list[npt.NDArray[Any]]:
        """The columns so far, in native byte order."""
        return [np.concatenate(parts) for parts in self._columns]

    def take(self) -> list[npt.NDArray[Any]]:
        """Removes and returns the columns so far, in native byte order."""
        columns = self.columns()
        for parts in self._columns:
            del parts[1:]  # the first part is empty and has the type
        return columns


class EmbeddingRows:
    """Decodes rows of an id and two embeddings, either of which may be null, part by part.

    Args:
        image: Decodes the image column's type.
        caption: Decodes the caption column's type.
        take: Receives the records of each part.
    """

    def __init__(self, image: Decoder, caption: Decoder, take: Callable[[EmbeddingRecords], None]) -> None:
        self._decoders = (image, caption)
        self._take = take

    def feed(self, data: bytes) -> bytes:
        """Decodes the whole rows in `data` and passes them on; returns the rest.

        Raises:
            StoreError: A row does not have an id and two embeddings of the columns' types.
        """
        rows, end = _whole_rows(data)
        ids, image_at, image_length, caption_at, caption_length = rows.T
        fields = np.frombuffer(data, np.uint8)
        decode_image, decode_caption = self._decoders
        try:
            images = _column(decode_image, fields, image_at, image_length)
            captions = _column(decode_caption, fields, caption_at, caption_length)
        except ValueError as error:
            raise StoreError(f"animora.posts was changed while it was read: {error}") from error
        self._take(EmbeddingRecords(ids, images, captions))
        return data[end:]


def _field(dtype: str) -> tuple[tuple[str, str], tuple[str, str]]:
    return ("length", ">i4"), ("value", dtype)


def _whole_rows(data: bytes) -> tuple[IntArray, int]:
    """Finds the whole rows of an id and two embeddings at the start of `data`.

    Returns:
        int64 (k, 5): for each row the id, and the offset and length of each embedding; -1 is the length of
        null. Also the end of the last row.
    """
    rows: list[tuple[int, int, int, int, int]] = []
    size, end = len(data), 0
    while (image_at := end + _EMBEDDINGS.size) <= size:
        fields, id_length, post_id, image_length = _EMBEDDINGS.unpack_from(data, end)
        if fields != 3 or id_length != 8:
            raise StoreError("a view gives a null, or a type, that it must not give")
        length_at = image_at + max(image_length, 0)
        caption_at = length_at + _LENGTH.size
        if caption_at > size:
            break
        (caption_length,) = _LENGTH.unpack_from(data, length_at)
        stop = caption_at + max(caption_length, 0)
        if stop > size:
            break
        rows.append((post_id, image_at, image_length, caption_at, caption_length))
        end = stop
    return np.array(rows, np.int64).reshape(-1, 5), end


def _column(decode: Decoder, data: npt.NDArray[np.uint8], at: IntArray, lengths: IntArray) -> EmbeddingBatch:
    """Decodes the embeddings at offsets `at` and of `lengths`, int64 (k) each, in `data` uint8 (n)."""
    widths = np.full(len(at), NO_EMBEDDING)
    blocks = {}
    for length in np.unique(lengths[lengths >= 0]).tolist():
        which = np.flatnonzero(lengths == length)
        # Copies all embeddings of this length at once.
        embeddings, usable = decode(np.lib.stride_tricks.sliding_window_view(data, length)[at[which]])
        widths[which] = np.where(usable, embeddings.shape[1], 0)
        if usable.any():
            blocks[embeddings.shape[1]] = embeddings if usable.all() else embeddings[usable]
    return EmbeddingBatch(widths, blocks)
