"""PostgreSQL's binary COPY format, for the types that our tables and views have.

A stream is a signature and then the rows: int16 number of fields, and for each field int32 length (-1 for
null) and that many bytes; all big-endian. It ends with -1 in place of the number of fields. Embeddings go
through it many times faster than value by value.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Field = bytes | memoryview | None

SIGNATURE = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
TRAILER = struct.pack(">h", -1)
NULL = struct.pack(">i", -1)
REAL_OID = 700
EPOCH_2000 = 946_684_800
# An array: number of dimensions, whether it holds nulls, the elements' type; then length and lower bound.
ARRAY_HEADER = struct.Struct(">iiiii")
ELEMENT = np.dtype([("length", ">i4"), ("value", ">f4")])
LENGTH = struct.Struct(">i")
FIELDS = struct.Struct(">h")
WIDTH = 8  # bytes of an int8, a float8 or a timestamptz


def encode_row(fields: Sequence[Field]) -> bytes:
    """One row."""
    parts: list[bytes | memoryview] = [FIELDS.pack(len(fields))]
    for field in fields:
        if field is None:
            parts.append(NULL)
        else:
            parts += (LENGTH.pack(len(field)), field)
    return b"".join(parts)


def encode_fixed(columns: Sequence[npt.NDArray[np.int64]]) -> bytes:
    """Rows whose fields are all int8 or timestamptz, from columns int64 (n)."""
    rows = np.empty(len(columns[0]), _fixed_layout([">i8"] * len(columns)))
    rows["fields"] = len(columns)
    for index, column in enumerate(columns):
        rows[f"length_{index}"] = 8
        rows[f"value_{index}"] = column
    return rows.tobytes()


def timestamps(seconds: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Seconds since 1970 as timestamptz has them: microseconds since 2000."""
    return np.round((seconds - EPOCH_2000) * 1e6).astype(np.int64)


def encode_real_arrays(vectors: npt.NDArray[np.float32]) -> list[bytes]:
    """Each row of vectors (n, d) as a field of type real[]."""
    count, width = vectors.shape
    elements = np.empty((count, width), ELEMENT)
    elements["length"] = 4
    elements["value"] = vectors
    if not width:
        return [struct.pack(">iii", 0, 0, REAL_OID)] * count
    header = ARRAY_HEADER.pack(1, 0, REAL_OID, width, 1)
    return [header + row.tobytes() for row in elements]


class FixedRows:
    """Rows of a stream whose fields are int8 or float8 without nulls, decoded in whole pieces."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        """Takes each field's name and NumPy type: ">i8" or ">f8"."""
        self._names = tuple(fields)
        self._layout = _fixed_layout(tuple(fields.values()))
        self._pending = b""
        self._skip = len(SIGNATURE)

    def feed(self, data: bytes) -> list[npt.NDArray[Any]]:
        """Each field's values, in native byte order, of the rows that are whole now.

        Raises:
            ValueError: A field is null; the text names it.
        """
        data = self._pending + data
        start = min(self._skip, len(data))
        self._skip -= start
        count = (len(data) - start) // self._layout.itemsize
        rows = np.frombuffer(data, self._layout, count, start)
        if any((rows[f"length_{index}"] != WIDTH).any() for index in range(len(self._names))):
            raise ValueError(f"holds a null in {self._first_null(rows)}")
        self._pending = data[start + count * self._layout.itemsize :]
        values = (rows[f"value_{index}"] for index in range(len(self._names)))
        return [value.astype(value.dtype.newbyteorder("=")) for value in values]

    def finish(self) -> None:
        """Makes sure that the stream has come to its end.

        Raises:
            ValueError: A field is null; the text names it.
        """
        if self._pending != TRAILER:
            # A null makes a row shorter, so that something else is left over.
            row = np.frombuffer(self._pending.ljust(self._layout.itemsize, b"\0"), self._layout, 1)
            raise ValueError(f"holds a null in {self._first_null(row)}")

    def _first_null(self, rows: npt.NDArray[np.void]) -> str:
        lengths = np.stack([rows[f"length_{index}"] for index in range(len(self._names))], axis=1)
        row = lengths[(lengths != WIDTH).any(axis=1)][0]
        return self._names[int(np.argmax(row != WIDTH))]


class RaggedRows:
    """Rows of a stream that begin like those of FixedRows and end in fields of any length, null or not."""

    def __init__(self, fields: Mapping[str, str], ragged: int) -> None:
        """Takes the name and NumPy type of each fixed field, and how many others follow."""
        self._names = tuple(fields)
        self._layout = _fixed_layout(tuple(fields.values()))
        widths = [np.dtype(kind).itemsize for kind in fields.values()]
        self._lengths = struct.Struct(">h" + "".join(f"i{width}x" for width in widths))
        self._expected = (len(fields) + ragged, *widths)
        self._ragged = range(ragged)
        self._pending = b""
        self._started = False

    def feed(self, data: bytes) -> tuple[list[npt.NDArray[Any]], list[list[memoryview | None]]]:
        """Each fixed field's values, in native byte order, and each other field, of rows that are whole now.

        Raises:
            ValueError: A fixed field is null; the text names it.
        """
        view = memoryview(self._pending + data)
        at = 0
        if not self._started and len(view) >= len(SIGNATURE):
            at, self._started = len(SIGNATURE), True
        heads: list[memoryview] = []
        tails: list[list[memoryview | None]] = [[] for _ in self._ragged]
        while self._started and len(view) >= at + self._layout.itemsize:
            lengths = self._lengths.unpack_from(view, at)
            if lengths != self._expected:
                raise ValueError(f"holds a null in {self._first_null(lengths)}")
            end = at + self._layout.itemsize
            tail: list[memoryview | None] = []
            for _ in self._ragged:
                if len(view) < end + LENGTH.size:
                    break
                (length,) = LENGTH.unpack_from(view, end)
                end += LENGTH.size
                tail.append(None if length < 0 else view[end : end + length])
                end += max(length, 0)
            if len(tail) < len(self._ragged) or len(view) < end:
                break
            heads.append(view[at : at + self._layout.itemsize])
            for fields, field in zip(tails, tail, strict=True):
                fields.append(field)
            at = end
        self._pending = bytes(view[at:])
        rows = np.frombuffer(b"".join(heads), self._layout)
        values = (rows[f"value_{index}"] for index in range(len(self._names)))
        return [value.astype(value.dtype.newbyteorder("=")) for value in values], tails

    def finish(self) -> None:
        """Makes sure that the stream has come to its end.

        Raises:
            ValueError: A fixed field is null; the text names it.
        """
        if self._pending != TRAILER:
            padded = self._pending.ljust(self._layout.itemsize, b"\0")
            raise ValueError(f"holds a null in {self._first_null(self._lengths.unpack_from(padded))}")

    def _first_null(self, lengths: tuple[int, ...]) -> str:
        wrong = [length != width for length, width in zip(lengths, self._expected, strict=True)]
        return self._names[wrong.index(True, 1) - 1]


def _fixed_layout(types: Sequence[str]) -> np.dtype[np.void]:
    layout: list[tuple[str, str]] = [("fields", ">i2")]
    for index, kind in enumerate(types):
        layout += [(f"length_{index}", ">i4"), (f"value_{index}", kind)]
    return np.dtype(layout)
