"""The messages between a worker and the device process: frames of numbers, arrays and texts, no pickle.

A frame is its length (uint32), its kind (uint8), a call number (uint64) and its parts, each preceded by the
part's length (uint32); all little-endian. A part is the bytes of one array, or UTF-8 text. Anything else is a
ProtocolError.
"""

import asyncio
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from animora_artifact import ArtifactRejected, StoreUnavailable, VersionNotFound
from animora_artifact.errors import RejectionReason
from animora_server.errors import (
    DeadlineUnreachable,
    DeviceFault,
    InvalidScores,
    OutOfDeviceMemory,
    Overloaded,
    ProtocolError,
)
from animora_server.types import DoubleArray, FloatArray, HalfArray, IntArray

MAX_FRAME_BYTES = 64 << 20  # a batch takes about 100 KiB; embeddings are split to MAX_PART_BYTES
MAX_PART_BYTES = MAX_FRAME_BYTES // 4
VERSION = 1  # of the protocol; it can differ only if one of the two processes was upgraded

_ERRORS: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (
        DeviceFault,
        OutOfDeviceMemory,
        InvalidScores,
        Overloaded,
        DeadlineUnreachable,
        StoreUnavailable,
        VersionNotFound,
    )
}

_LENGTH = struct.Struct("<I")
_HEAD = struct.Struct("<BQ")

Part = bytes | memoryview


class FrameKind(IntEnum):
    """The kinds of frames: parts of the call → parts of the answer. int64, times float64, if not stated."""

    HELLO = 1  # VERSION → the device's name
    LOAD = 2  # the version's name → the model's number and whether it is compiled
    ALLOCATE = 3  # model, capacity, source or -1, its rows (4) → the table's number
    ENCODE = 4  # table, first row (2); post rows (n); image, caption float16 (n, w) → seconds
    WARM = 5  # table; sizes (k) → nothing
    SCORE = 6  # table; deadline; user rows (b); sizes (b); rows (m) → logits float32 (m)
    EXPLAIN = 7  # model, user row (2); deadline; post rows (m); image, caption (m, w) → terms float32 (m, 8)
    FREE_MODEL = 8  # number; no answer
    FREE_TABLE = 9  # number; no answer
    DONE = 10  # an answer
    FAILED = 11  # the answer of a failed call: the error's name, the error's message


@dataclass(frozen=True, slots=True)
class Frame:
    """One message.

    Attributes:
        kind: The kind.
        call: The call's number, which the answer repeats; 0 where there is no answer.
        parts: The arrays and texts, as bytes.
    """

    kind: FrameKind
    call: int
    parts: Sequence[Part]


def to_bytes(kind: FrameKind, call: int, *parts: npt.NDArray[np.generic] | str) -> bytes:
    """Encodes a frame, with its length.

    Raises:
        ProtocolError: The frame is longer than MAX_FRAME_BYTES.
    """
    pieces: list[Part] = [_HEAD.pack(kind, call)]
    for part in parts:
        content = part.encode() if isinstance(part, str) else np.ascontiguousarray(part).tobytes()
        pieces += (_LENGTH.pack(len(content)), content)
    length = sum(map(len, pieces))
    if length > MAX_FRAME_BYTES:
        raise ProtocolError(f"{length} bytes are too many for a frame")
    return b"".join((_LENGTH.pack(length), *pieces))


def from_bytes(content: bytearray) -> Frame:
    """Decodes a frame from the bytes that follow its length. The parts share their memory.

    Raises:
        ProtocolError: The bytes are not a frame.
    """
    try:
        kind, call = _HEAD.unpack_from(content)
        parts, at, view = [], _HEAD.size, memoryview(content)
        while at < len(content):
            (length,) = _LENGTH.unpack_from(content, at)
            at += _LENGTH.size + length
            if at > len(content):
                raise ProtocolError("a frame ends within a part")
            parts.append(view[at - length : at])
        return Frame(FrameKind(kind), call, parts)
    except (struct.error, ValueError) as error:
        raise ProtocolError(f"a frame cannot be read: {error}") from error


async def read_frame(reader: asyncio.StreamReader) -> Frame | None:
    """Reads the next frame; None when the connection has ended.

    Raises:
        ProtocolError: The bytes are not a frame, the connection ends within one, or the frame is too large.
    """
    length = None
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if length > MAX_FRAME_BYTES:
            raise ProtocolError(f"{length} bytes are too many for a frame")
        # A bytearray because PyTorch warns about arrays that are not writable.
        return from_bytes(bytearray(await reader.readexactly(length)))
    except asyncio.IncompleteReadError as error:
        if error.partial or length is not None:
            raise ProtocolError("the connection ended within a frame") from error
        return None
    except ConnectionError:
        return None


def integers(part: Part, count: int | None = None) -> IntArray:
    """A part as int64 (n). Raises ProtocolError if it is not, or if n is not `count`."""
    return _array(part, np.dtype(np.int64), count)


def doubles(part: Part, count: int | None = None) -> DoubleArray:
    """A part as float64 (n). Raises ProtocolError if it is not, or if n is not `count`."""
    return _array(part, np.dtype(np.float64), count)


def floats(part: Part, count: int | None = None) -> FloatArray:
    """A part as float32 (n). Raises ProtocolError if it is not, or if n is not `count`."""
    return _array(part, np.dtype(np.float32), count)


def halves(part: Part, rows: int) -> HalfArray:
    """A part as float16 (rows, w). Raises ProtocolError if it is not."""
    values = _array(part, np.dtype(np.float16), None)
    if not rows or len(values) % rows:
        raise ProtocolError(f"{len(values)} numbers cannot be split into {rows} rows")
    return values.reshape(rows, -1) if len(values) else values.reshape(rows, 0)


def text(part: Part) -> str:
    """A part as text. Raises ProtocolError if it is not UTF-8."""
    try:
        return bytes(part).decode()
    except UnicodeDecodeError as error:
        raise ProtocolError("the text of a frame is not UTF-8") from error


def encode_error(error: Exception) -> tuple[str, str]:
    """The name and the message of an error, as parts of a FAILED frame."""
    if isinstance(error, ArtifactRejected):
        return error.reason.value, error.detail
    return type(error).__name__, str(error)


def decode_error(name: str, message: str) -> Exception:
    """The error of a FAILED frame. An unknown name becomes a RuntimeError, which fails only its request."""
    if name in RejectionReason.__members__.values():
        return ArtifactRejected(RejectionReason(name), message)
    kind = _ERRORS.get(name)
    return RuntimeError(f"{name}: {message}") if kind is None else kind(message)


def _array(part: Part, dtype: "np.dtype[np.generic]", count: int | None) -> npt.NDArray[Any]:
    if len(part) % dtype.itemsize or count not in {None, len(part) // dtype.itemsize}:
        raise ProtocolError(f"{len(part)} bytes are not {'' if count is None else count} {dtype}")
    return np.frombuffer(part, dtype)
