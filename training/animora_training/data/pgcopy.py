"""PostgreSQL's binary COPY format, for the types of Animora's tables and views.

A stream has a signature and then rows: int16 number of fields, and for each field int32 length (-1 for null)
and that many bytes, all big-endian. It ends with -1 in place of the number of fields.
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
# Array header: number of dimensions, has nulls, element type; then length and lower bound.
ARRAY_HEADER = struct.Struct(">iiiii")
ELEMENT = np.dtype([("length", ">i4"), ("value", ">f4")])
LENGTH = struct.Struct(">i")
FIELDS = struct.Struct(">h")
WIDTH = 8  # bytes of an int8, a float8 or a timestamptz


def encode_row(fields: Sequence[Field]) -> bytes:
    """Encodes a row."""
    parts: list[bytes | memoryview] = [FIELDS.pack(len(fields))]
    for field in fields:
        if field is None:
            parts.append(NULL)
        else:
            parts += (LENGTH.pack(len(field)), field)
    return b"".join(parts)


def encode_fixed(columns: Sequence[npt.NDArray[np.int64]]) -> bytes:
    """Encodes rows of int8 or timestamptz fields from columns int64 (n)."""
    rows = np.empty(len(columns[0]), _fixed_layout([">i8"] * len(columns)))
    rows["fields"] = len(columns)
    for index, column in enumerate(columns):
        rows[f"length_{index}"] = 8
        rows[f"value_{index}"] = column
    return rows.tobytes()


def timestamps(seconds: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Converts seconds since 1970 to timestamptz values, microseconds since 2000."""
    return np.round((seconds - EPOCH_2000) * 1e6).astype(np.int64)


def encode_real_arrays(vectors: npt.NDArray[np.float32]) -> list[bytes]:
    """Encodes each row of vectors (n, d) as a field of type real[]."""
    count, width = vectors.shape
    elements = np.empty((count, width), ELEMENT)
    elements["length"] = 4
    elements["value"] = vectors
    if not width:
        return [struct.pack(">iii", 0, 0, REAL_OID)] * count
    header = ARRAY_HEADER.pack(1, 0, REAL_OID, width, 1)
    return [header + row.tobytes() for row in elements]


class FixedRows:
    """Decodes a stream of rows with int8 or float8 fields without nulls."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        """Takes the names and NumPy types of the fields: ">i8" or ">f8"."""
        self._names = tuple(fields)
        self._layout = _fixed_layout(tuple(fields.values()))
        self._pending = b""
        self._skip = len(SIGNATURE)

    def feed(self, data: bytes) -> list[npt.NDArray[Any]]:
        """Decodes the rows that are complete now; returns each field's values in native byte order.

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
        """Checks that the stream is complete.

        Raises:
            ValueError: A field is null; the text names it.
        """
        if self._pending != TRAILER:
            # A null shortens a row, so other bytes than the trailer are left.
            row = np.frombuffer(self._pending.ljust(self._layout.itemsize, b"\0"), self._layout, 1)
            raise ValueError(f"holds a null in {self._first_null(row)}")

    def _first_null(self, rows: npt.NDArray[np.void]) -> str:
        lengths = np.stack([rows[f"length_{index}"] for index in range(len(self._names))], axis=1)
        row = lengths[(lengths != WIDTH).any(axis=1)][0]
        return self._names[int(np.argmax(row != WIDTH))]


class RaggedRows:
    """Decodes a stream of rows with fixed fields as in FixedRows, then nullable fields of any length."""

    def __init__(self, fields: Mapping[str, str], ragged: int) -> None:
        """Takes names and NumPy types of the fixed fields, and the number of ragged fields."""
        self._names = tuple(fields)
        self._layout = _fixed_layout(tuple(fields.values()))
        widths = [np.dtype(kind).itemsize for kind in fields.values()]
        self._lengths = struct.Struct(">h" + "".join(f"i{width}x" for width in widths))
        self._expected = (len(fields) + ragged, *widths)
        self._ragged = range(ragged)
        self._pending = b""
        self._started = False

    def feed(self, data: bytes) -> tuple[list[npt.NDArray[Any]], list[list[memoryview | None]]]:
        """Decodes the rows that are complete now; returns the fixed fields' values and the ragged fields.

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
        """Checks that the stream is complete.

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
