"""PostgreSQL's binary COPY format, decoded into arrays without an object a value.

See "Binary Format" in PostgreSQL's documentation of COPY. Everything is big-endian: a header, then for each
row the number of its fields and for each field its length (-1 for null) and bytes, then a trailer.
"""

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from animora_server.catalog import EmbeddingRecords
from animora_server.errors import StoreError
from animora_server.types import FloatArray

TRAILER = b"\xff\xff"

_HEADER = struct.Struct(">11sII")  # signature, flags, length of an extension
_FIELDS = struct.Struct(">h")
_LENGTH = struct.Struct(">i")
_ID = struct.Struct(">q")
_ARRAY = struct.Struct(">iiIii")  # dimensions, has nulls, element type, length, lower bound
_ARRAY_ELEMENT = np.dtype([("length", ">i4"), ("value", ">f4")])
_VECTOR = struct.Struct(">hh")  # length, unused
_UNUSABLE: FloatArray = np.empty(0, np.float32)

EmbeddingDecoder = Callable[[memoryview], FloatArray]


def without_header(data: bytes) -> bytes:
    """What follows the header at the start of a COPY."""
    _, _, extension = _HEADER.unpack_from(data)
    return data[_HEADER.size + extension :]


class FixedColumns:
    """Columns of fixed width and without nulls, collected part by part.

    Args:
        types: NumPy's names of the columns' types, big-endian.
    """

    def __init__(self, types: tuple[str, ...]) -> None:
        self._row = np.dtype(
            [("fields", ">i2")]
            + [(f"{kind}{n}", dtype) for n, one in enumerate(types) for kind, dtype in _field(one)]
        )
        # What the fields that hold no values must hold.
        self._expected = {"fields": len(types)} | {
            f"length{n}": np.dtype(one).itemsize for n, one in enumerate(types)
        }
        native = [np.dtype(one).newbyteorder("=") for one in types]
        self._columns: list[list[npt.NDArray[Any]]] = [[np.empty(0, one)] for one in native]

    def feed(self, data: bytes) -> bytes:
        """Takes the whole rows in data; returns what is left.

        Raises:
            StoreError: A field is null, or not of its column's width.
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


class EmbeddingRows:
    """Rows of an id and two embeddings, either of which may be null, handed on part by part."""

    def __init__(
        self, image: EmbeddingDecoder, caption: EmbeddingDecoder, take: Callable[[EmbeddingRecords], None]
    ) -> None:
        self._decoders = (image, caption)
        self._take = take

    def feed(self, data: bytes) -> bytes:
        """Decodes and hands on the whole rows in data; returns what is left."""
        rows, end = _whole_rows(memoryview(data))
        ids = np.array([_ID.unpack(row[0] or b"")[0] for row in rows], np.int64)
        images, captions = (
            [None if (field := row[n]) is None else decode(field) for row in rows]
            for n, decode in enumerate(self._decoders, start=1)
        )
        self._take(EmbeddingRecords(ids, images, captions))
        return data[end:]


def decode_array(field: memoryview) -> FloatArray:
    """A real[] as float32 (width), big-endian; empty if it has several dimensions or nulls."""
    if len(field) < _ARRAY.size:
        return _UNUSABLE
    dimensions, has_nulls, _, length, _ = _ARRAY.unpack_from(field)
    if dimensions != 1 or has_nulls:
        return _UNUSABLE
    return np.frombuffer(field, _ARRAY_ELEMENT, length, _ARRAY.size)["value"]


def decode_vector(field: memoryview) -> FloatArray:
    """A pgvector vector as float32 (width), big-endian."""
    length, _ = _VECTOR.unpack_from(field)
    return np.frombuffer(field, ">f4", length, _VECTOR.size)


def _field(dtype: str) -> tuple[tuple[str, str], tuple[str, str]]:
    return ("length", ">i4"), ("value", dtype)


def _whole_rows(view: memoryview) -> tuple[list[list[memoryview | None]], int]:
    """The fields of the whole rows at the start of a view, and where the last of them ends."""
    rows: list[list[memoryview | None]] = []
    end = at = 0
    while len(view) - at >= _FIELDS.size:
        (count,) = _FIELDS.unpack_from(view, at)
        at += _FIELDS.size
        if count < 0:
            break  # the trailer
        fields: list[memoryview | None] = []
        for _ in range(count):
            if len(view) - at < _LENGTH.size:
                return rows, end
            (length,) = _LENGTH.unpack_from(view, at)
            at += _LENGTH.size
            if len(view) - at < length:
                return rows, end
            fields.append(view[at : at + length] if length >= 0 else None)
            at += max(length, 0)
        rows.append(fields)
        end = at
    return rows, end
