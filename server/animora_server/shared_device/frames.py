"""What a worker and the device process that it shares send each other: frames of numbers and arrays.

A frame is its length (uint32), its kind (uint8), the number of the call that it belongs to (uint64), and
parts, each after its own length (uint32); all little-endian. A part is the bytes of one array, or UTF-8 text.
So there is nothing in a frame that could be executed, and whatever is not as it should be is a ProtocolError.
"""

import asyncio
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from animora_server.errors import ProtocolError
from animora_server.types import DoubleArray, FloatArray, HalfArray, IntArray

LONGEST = 64 << 20  # bytes of a frame; a batch takes some 100 KiB, embeddings are cut to a quarter of this
LARGEST_PART = LONGEST // 4
VERSION = 1  # of all this; both sides are of one installation, unless one was upgraded meanwhile

_LENGTH = struct.Struct("<I")
_HEAD = struct.Struct("<BQ")

Part = bytes | memoryview


class FrameKind(IntEnum):
    """What a frame asks, with its parts, and what answers it; int64 and, for times, float64 if not said."""

    HELLO = 1  # VERSION → the device's name
    LOAD = 2  # the version's name → the model's number and whether it is compiled
    ALLOCATE = 3  # model, capacity, source or -1, its rows (4) → the table's number
    ENCODE = 4  # table, first row (2); post rows (n); image, caption float16 (n, w) → seconds
    WARM = 5  # table; sizes (k) → nothing
    SCORE = 6  # table; deadline; user rows (b); sizes (b); rows (m) → logits float32 (m)
    EXPLAIN = 7  # model, user row (2); deadline; post rows (m); image, caption (m, w) → terms float32 (m, 8)
    FREE_MODEL = 8  # number; no answer
    FREE_TABLE = 9  # number; no answer
    DONE = 10  # the answer
    FAILED = 11  # the failure's name and text


@dataclass(frozen=True, slots=True)
class Frame:
    """One message.

    Attributes:
        kind: What it asks or answers.
        call: The call's number; an answer has its question's.
        parts: Its arrays and texts, as bytes.
    """

    kind: FrameKind
    call: int
    parts: Sequence[Part]


def to_bytes(kind: FrameKind, call: int, *parts: npt.NDArray[np.generic] | str) -> bytes:
    """A frame as it is sent.

    Raises:
        ProtocolError: It is too large.
    """
    pieces: list[Part] = [_HEAD.pack(kind, call)]
    for part in parts:
        content = part.encode() if isinstance(part, str) else np.ascontiguousarray(part).tobytes()
        pieces += (_LENGTH.pack(len(content)), content)
    length = sum(map(len, pieces))
    if length > LONGEST:
        raise ProtocolError(f"{length} bytes are too many for a message")
    return b"".join((_LENGTH.pack(length), *pieces))


def from_bytes(content: bytearray) -> Frame:
    """A frame as it was sent, from what follows its length.

    Raises:
        ProtocolError: It is none.
    """
    try:
        kind, call = _HEAD.unpack_from(content)
        parts, at, rest = [], _HEAD.size, memoryview(content)
        while at < len(content):
            (length,) = _LENGTH.unpack_from(content, at)
            at += _LENGTH.size + length
            if at > len(content):
                raise ProtocolError("a message ends within a part")
            parts.append(rest[at - length : at])
        return Frame(FrameKind(kind), call, parts)
    except (struct.error, ValueError) as error:
        raise ProtocolError(f"a message cannot be read: {error}") from error


async def read_frame(reader: asyncio.StreamReader) -> Frame | None:
    """The next frame, or None when the other side has closed or is gone.

    Raises:
        ProtocolError: What comes is no frame, or ends within one, or is too large.
    """
    length = None
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if length > LONGEST:
            raise ProtocolError(f"{length} bytes are too many for a message")
        # As something that may be written to, which PyTorch wants of arrays.
        return from_bytes(bytearray(await reader.readexactly(length)))
    except asyncio.IncompleteReadError as error:
        if error.partial or length is not None:
            raise ProtocolError("the other side ended within a message") from error
        return None
    except ConnectionError:
        return None


def integers(part: Part, count: int | None = None) -> IntArray:
    """A part as int64 (n). Raises ProtocolError if it is not, or not so many."""
    return _array(part, np.dtype(np.int64), count)


def doubles(part: Part, count: int | None = None) -> DoubleArray:
    """A part as float64 (n). Raises ProtocolError if it is not, or not so many."""
    return _array(part, np.dtype(np.float64), count)


def floats(part: Part, count: int | None = None) -> FloatArray:
    """A part as float32 (n). Raises ProtocolError if it is not, or not so many."""
    return _array(part, np.dtype(np.float32), count)


def halves(part: Part, rows: int) -> HalfArray:
    """A part as float16 (rows, w). Raises ProtocolError if it is not."""
    values = _array(part, np.dtype(np.float16), None)
    if not rows or len(values) % rows:
        raise ProtocolError(f"{len(values)} numbers are no {rows} rows")
    return values.reshape(rows, -1) if len(values) else values.reshape(rows, 0)


def text(part: Part) -> str:
    """A part as text. Raises ProtocolError if it is none."""
    try:
        return bytes(part).decode()
    except UnicodeDecodeError as error:
        raise ProtocolError("a message's text is not UTF-8") from error


def _array(part: Part, dtype: "np.dtype[np.generic]", count: int | None) -> npt.NDArray[Any]:
    if len(part) % dtype.itemsize or count not in {None, len(part) // dtype.itemsize}:
        raise ProtocolError(f"{len(part)} bytes are not {'' if count is None else count} {dtype}")
    return np.frombuffer(part, dtype)
