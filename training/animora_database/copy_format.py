"""PostgreSQL's binary COPY format to arrays and back, without a Python object for each value.

A stream has a header and then rows: int16 number of fields, and for each field int32 length (-1 for null) and
that many bytes, all big-endian. It ends with -1 in place of the number of fields. See "Binary Format" in
PostgreSQL's documentation of COPY.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from animora_database.embeddings import REAL, Decoder, EmbeddingBatch, decode_column, gather
from animora_database.errors import UnusableView
from animora_database.views import BIGINT, ViewQuery

Field = bytes | memoryview | None
Columns = list[npt.NDArray[Any]]

HEADER = struct.Struct(">11sii")  # signature, flags, length of the extension
SIGNATURE = HEADER.pack(b"PGCOPY\n\xff\r\n\0", 0, 0)
TRAILER = struct.pack(">h", -1)
NULL = struct.pack(">i", -1)
FIELDS = struct.Struct(">h")
LENGTH = struct.Struct(">i")
ARRAY_HEADER = struct.Struct(">iiiii")  # as embeddings.ARRAY
ELEMENT = np.dtype([("length", ">i4"), ("value", ">f4")])
POSTGRES_EPOCH = 946_684_800  # 2000-01-01 in unix seconds, the origin of PostgreSQL's timestamps


def without_header(data: bytes) -> bytes:
    """The bytes after the header, given the first bytes of a COPY."""
    _, _, extension = HEADER.unpack_from(data)
    return data[HEADER.size + extension :]


class _Rows:
    """The fixed-width columns of rows, and the end of a COPY."""

    def __init__(self, query: ViewQuery, embeddings: int = 0) -> None:
        self.query = query
        self._layout = _layout(query.types)
        self._fields = len(query.types) + embeddings

    def finish(self, rest: bytes) -> None:
        """Checks that the rest of a whole COPY is its trailer.

        Raises:
            UnusableView: It is not. A null shortens a row, so that other bytes are left.
        """
        if rest != TRAILER:
            raise self._row_error(np.frombuffer(rest.ljust(self._layout.itemsize, b"\0"), self._layout, 1))

    def _columns(self, rows: npt.NDArray[np.void]) -> Columns:
        expected = {f"length of {name}": self._layout[name].itemsize for name in self.query.types}
        for name, value in (expected | {"fields": self._fields}).items():
            if not np.all(rows[name] == value):
                raise self._row_error(rows)
        return [rows[name].astype(self._layout[name].newbyteorder("=")) for name in self.query.types]

    def _row_error(self, rows: npt.NDArray[np.void]) -> UnusableView:
        """The error for the first row that is not as the query says; the rows after it are not aligned."""
        names = [*self.query.types]
        wrong = [rows[f"length of {name}"] != self._layout[name].itemsize for name in names]
        if not np.any(wrong):
            return UnusableView(f"the rows of animora.{self.query.view} do not have the columns of the query")
        name = names[int(np.stack(wrong, axis=1).argmax()) % len(names)]
        return UnusableView(f"animora.{self.query.view} holds a null in {name}, which that column must not")


class FixedRows(_Rows):
    """Decodes rows of fixed-width columns, part by part.

    Args:
        query: The query, which selects no other columns.
        take: Receives the columns of each part, in native byte order.
    """

    def __init__(self, query: ViewQuery, take: Callable[[Columns], None]) -> None:
        super().__init__(query)
        self._take = take

    def feed(self, data: bytes) -> bytes:
        """Decodes the whole rows in `data` and passes them on; returns the rest.

        Raises:
            UnusableView: A field is null.
        """
        rows = np.frombuffer(data, self._layout, len(data) // self._layout.itemsize)
        self._take(self._columns(rows))
        return data[len(rows) * self._layout.itemsize :]


class EmbeddingRows(_Rows):
    """Decodes rows of fixed-width columns and then two embeddings, either of which may be null.

    Args:
        query: The query, which selects the embeddings last.
        decoders: Decoders of the two embeddings.
        take: Receives the fixed-width columns and the embeddings of each part.
    """

    def __init__(
        self,
        query: ViewQuery,
        decoders: tuple[Decoder, Decoder],
        take: Callable[[Columns, EmbeddingBatch, EmbeddingBatch], None],
    ) -> None:
        super().__init__(query, embeddings=2)
        self._decoders = decoders
        self._take = take

    def feed(self, data: bytes) -> bytes:
        """Decodes the whole rows in `data` and passes them on; returns the rest.

        Raises:
            UnusableView: A fixed-width field is null, or an embedding has another type than its column had.
        """
        rows, end = self._whole_rows(data)
        image_at, image_length, caption_at, caption_length = rows.T
        fields, head = np.frombuffer(data, np.uint8), self._layout.itemsize
        columns = self._columns(gather(fields, image_at - LENGTH.size - head, head).view(self._layout)[:, 0])
        if len(data) - end >= head:
            self._columns(np.frombuffer(data, self._layout, 1, end))  # else a null might hide the row's end
        decode_image, decode_caption = self._decoders
        images = decode_column(decode_image, fields, image_at, image_length)
        captions = decode_column(decode_caption, fields, caption_at, caption_length)
        self._take(columns, images, captions)
        return data[end:]

    def _whole_rows(self, data: bytes) -> tuple[npt.NDArray[np.int64], int]:
        """Finds the whole rows at the start of `data`.

        Returns:
            int64 (k, 4): for each row offset and length of the first embedding, and those of the second; -1
            is the length of null. Also the end of the last row.
        """
        rows: list[tuple[int, int, int, int]] = []
        size, end, unpack = len(data), 0, LENGTH.unpack_from
        head = self._layout.itemsize + LENGTH.size
        while (image_at := end + head) <= size:
            (image_length,) = unpack(data, image_at - LENGTH.size)
            length_at = image_at + max(image_length, 0)
            caption_at = length_at + LENGTH.size
            if caption_at > size:
                break
            (caption_length,) = unpack(data, length_at)
            stop = caption_at + max(caption_length, 0)
            if stop > size:
                break
            rows.append((image_at, image_length, caption_at, caption_length))
            end = stop
        return np.array(rows, np.int64).reshape(-1, 4), end


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
    names = [str(index) for index in range(len(columns))]
    rows = np.empty(len(columns[0]), _layout(dict.fromkeys(names, BIGINT)))
    rows["fields"] = len(columns)
    for name, column in zip(names, columns, strict=True):
        rows[f"length of {name}"] = 8
        rows[name] = column
    return rows.tobytes()


def encode_real_arrays(vectors: npt.NDArray[np.float32]) -> list[bytes]:
    """Encodes each row of vectors (n, d) as a field of type real[]."""
    count, width = vectors.shape
    elements = np.empty((count, width), ELEMENT)
    elements["length"] = 4
    elements["value"] = vectors
    if not width:
        return [struct.pack(">iii", 0, 0, REAL)] * count
    header = ARRAY_HEADER.pack(1, 0, REAL, width, 1)
    return [header + row.tobytes() for row in elements]


def timestamps(seconds: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Converts unix seconds to timestamptz values, microseconds since POSTGRES_EPOCH."""
    return np.round((seconds - POSTGRES_EPOCH) * 1e6).astype(np.int64)


def unix_seconds(values: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Converts timestamptz values to unix seconds, rounded once, as PostgreSQL's `extract` does."""
    seconds, microseconds = np.divmod(values, 1_000_000)
    rounded: npt.NDArray[np.float64] = (seconds + POSTGRES_EPOCH) + microseconds / 1e6
    return rounded


def _layout(types: Mapping[str, str]) -> np.dtype[np.void]:
    """The layout of a row of fixed-width fields, with a length before each."""
    fields = [part for name, dtype in types.items() for part in ((f"length of {name}", ">i4"), (name, dtype))]
    return np.dtype([("fields", ">i2"), *fields])
