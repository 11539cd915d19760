"""PostgreSQL's binary COPY format, for the types that our tables and views have.

A stream is a signature and then the rows: int16 number of fields, and for each field int32 length (-1 for
null) and that many bytes; all big-endian. It ends with -1 in place of the number of fields. Embeddings go
through it many times faster than value by value.
"""

import struct
from collections.abc import Iterator, Sequence

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


def decode_real_array(field: memoryview | bytes) -> npt.NDArray[np.float32]:
    """A field of type real[] as float32 (d).

    Raises:
        ValueError: It has several dimensions, holds a null, or is of another type.
    """
    dimensions, has_nulls, element_type = struct.unpack_from(">iii", field)
    if element_type != REAL_OID:
        raise ValueError("is not an array of real")
    if has_nulls:
        raise ValueError("holds a null")
    if dimensions > 1:
        raise ValueError("has more than one dimension")
    if dimensions == 0:
        return np.empty(0, np.float32)
    elements = np.frombuffer(field, ELEMENT, offset=ARRAY_HEADER.size)
    return elements["value"].astype(np.float32)


class FixedRows:
    """Rows of a stream whose fields are int8 or float8 without nulls, decoded in whole chunks."""

    def __init__(self, types: Sequence[str]) -> None:
        """Takes the NumPy type of each field: ">i8" or ">f8"."""
        self._layout = _fixed_layout(types)
        self._fields = len(types)
        self._chunks = [np.empty(0, self._layout)]
        self._pending = b""
        self._skip = len(SIGNATURE)
        self._rows = 0

    def __len__(self) -> int:
        return self._rows

    def feed(self, chunk: bytes) -> None:
        """Takes the next bytes of the stream.

        Raises:
            ValueError: A field is null.
        """
        data = self._pending + chunk
        start = min(self._skip, len(data))
        self._skip -= start
        count = (len(data) - start) // self._layout.itemsize
        rows = np.frombuffer(data, self._layout, count, start)
        if any((rows[f"length_{index}"] != 8).any() for index in range(self._fields)):
            raise ValueError("holds a null")
        self._chunks.append(rows)
        self._rows += count
        self._pending = data[start + count * self._layout.itemsize :]

    def columns(self) -> list[npt.NDArray[np.int64 | np.float64]]:
        """Each field's values, in native byte order, after the whole stream.

        Raises:
            ValueError: A field is null.
        """
        if self._pending != TRAILER:
            raise ValueError("holds a null")  # a shorter row, so that something else is left over
        rows = np.concatenate(self._chunks)
        values = (rows[f"value_{index}"] for index in range(self._fields))
        return [value.astype(value.dtype.newbyteorder("=")) for value in values]


class RowDecoder:
    """Rows of a stream that arrives in chunks."""

    def __init__(self) -> None:
        self._pending = b""
        self._started = False

    def feed(self, chunk: bytes) -> Iterator[list[memoryview | None]]:
        """The rows that are whole now; their fields are only valid until the next chunk."""
        data = memoryview(self._pending + chunk)
        at = 0
        if not self._started:
            if len(data) < len(SIGNATURE):
                self._pending = bytes(data)
                return
            at, self._started = len(SIGNATURE), True
        while True:
            end, row = _decode_row(data, at)
            if row is None:
                break
            yield row
            at = end
        self._pending = bytes(data[at:])


def _fixed_layout(types: Sequence[str]) -> np.dtype[np.void]:
    layout: list[tuple[str, str]] = [("fields", ">i2")]
    for index, kind in enumerate(types):
        layout += [(f"length_{index}", ">i4"), (f"value_{index}", kind)]
    return np.dtype(layout)


def _decode_row(data: memoryview, at: int) -> tuple[int, list[memoryview | None] | None]:
    """The row that starts at an offset and where it ends; None if it is not whole or is the trailer."""
    if len(data) < at + FIELDS.size:
        return at, None
    (count,) = FIELDS.unpack_from(data, at)
    if count < 0:
        return at, None
    at += FIELDS.size
    row: list[memoryview | None] = []
    for _ in range(count):
        if len(data) < at + LENGTH.size:
            return at, None
        (length,) = LENGTH.unpack_from(data, at)
        at += LENGTH.size
        if len(data) < at + length:
            return at, None
        row.append(None if length < 0 else data[at : at + length])
        at += max(length, 0)
    return at, row
