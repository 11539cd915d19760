"""The messages between a worker and the device process: fixed layouts of arrays and texts, no pickle.

A message is its length (uint32), a head, and the values that are arrays or texts. The head has the name of a
call (8 bytes), the numbers of the call and of its target (uint64), the values that are numbers, and the sizes
(uint32) of the arrays and texts. All is little-endian. An answer has the name and the number of its call; the
answer of a failed call has the name `error`.
"""

import asyncio
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from animora_artifact import ArtifactRejected, StoreUnavailable, VersionNotFound
from animora_artifact.errors import RejectionReason
from animora_server import errors
from animora_server.errors import ProtocolError

MAX_BYTES = 64 << 20  # of a message. A batch takes about 100 KiB; embeddings are sent in several messages
READ_BUFFER = 1 << 20  # bytes of a connection
DEVICE = 0  # as the target of a call
VERSION = 2  # of the protocol; it can differ only if one of the two processes was upgraded

Value: TypeAlias = float | str | npt.NDArray[Any]

_LENGTH = struct.Struct("<I")
_TEXT, _INT64, _FLOAT16, _FLOAT32 = map(np.dtype, ("<u1", "<i8", "<f2", "<f4"))


class Layout:
    """The values of a message: numbers, in the syntax of `struct`, then arrays or texts."""

    def __init__(self, numbers: str = "", *arrays: "np.dtype[Any]") -> None:
        head = f"<8sQQ{numbers}{len(arrays)}I"
        self.head = struct.Struct(f"{head}{-struct.calcsize(head) % 8}x")  # PyTorch needs aligned arrays
        self.arrays = arrays


Layouts: TypeAlias = Mapping[str, Layout]

# The calls of the device, of models and of tables. Comments name the values; (n) is the shape of an array.
CALLS: Layouts = {
    "hello": Layout("I"),  # VERSION
    "load": Layout("", _TEXT),  # version
    "allocate": Layout("Q"),  # of a model: capacity
    "warm": Layout("", _INT64),  # of a model: batch sizes
    "explain": Layout("Qd", _INT64, _FLOAT16, _FLOAT16),  # of a model: user row, deadline; as encode
    "enlarge": Layout("QQ"),  # of a table: capacity, rows to copy
    "encode": Layout("Q", _INT64, _FLOAT16, _FLOAT16),  # of a table: row; post rows (n), embeddings (n * w)
    "score": Layout("d", _INT64, _INT64, _INT64),  # of a table: deadline; user rows (b), sizes (b), rows (m)
    "free": Layout(),  # of a model or table; there is no answer
}
ANSWERS: Layouts = {
    "hello": Layout("", _TEXT),  # the device's name
    "load": Layout("Q?"),  # the model's number, whether it is compiled
    "allocate": Layout("Q"),  # the table's number
    "warm": Layout(),
    "explain": Layout("", _FLOAT32),  # terms (m * 8)
    "enlarge": Layout("Q"),  # the new table's number
    "encode": Layout("d"),  # seconds
    "score": Layout("", _FLOAT32),  # logits (m)
    "error": Layout("", _TEXT, _TEXT),  # the error's name and message
}


class Message(NamedTuple):
    """A call, or its answer."""

    name: str
    call: int
    target: int
    values: list[Any]


def encode_message(layouts: Layouts, name: str, call: int, target: int, *values: Value) -> bytes:
    """Encodes a message. Raises ProtocolError if it is longer than MAX_BYTES."""
    layout = layouts[name]
    numbers = len(values) - len(layout.arrays)
    arrays = [
        value.encode() if isinstance(value, str) else np.asarray(value, dtype).tobytes()
        for value, dtype in zip(values[numbers:], layout.arrays, strict=True)
    ]
    counts = [len(array) // dtype.itemsize for array, dtype in zip(arrays, layout.arrays, strict=True)]
    head = layout.head.pack(name.encode(), call, target, *values[:numbers], *counts)
    length = len(head) + sum(map(len, arrays))
    _check_length(length)
    return b"".join((_LENGTH.pack(length), head, *arrays))


def decode_message(layouts: Layouts, content: bytearray) -> Message:
    """Decodes a message from the bytes that follow its length; its arrays (n) are writable views of them.

    Raises:
        ProtocolError: The bytes are not a message of these layouts.
    """
    try:
        name = content[:8].rstrip(b"\0").decode()
        layout = layouts[name]
        _, call, target, *values = layout.head.unpack_from(content)
        first, at = len(values) - len(layout.arrays), layout.head.size
        for index, dtype in enumerate(layout.arrays, first):
            array: npt.NDArray[Any] = np.ndarray(values[index], dtype, content, at)
            at += array.nbytes
            values[index] = bytes(array).decode() if dtype is _TEXT else array
    except (KeyError, TypeError, ValueError, struct.error) as error:
        raise ProtocolError(f"a message cannot be read: {error}") from error
    if at != len(content):
        raise ProtocolError("a message is longer than its values")
    return Message(name, call, target, values)


async def read_message(layouts: Layouts, reader: asyncio.StreamReader) -> Message | None:
    """Reads the next message; None when the connection has ended.

    Raises:
        ProtocolError: The bytes are not a message, the message is too long, or the connection ends within it.
    """
    length = None
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        _check_length(length)
        return decode_message(layouts, bytearray(await reader.readexactly(length)))
    except asyncio.IncompleteReadError as error:
        if error.partial or length is not None:
            raise ProtocolError("the connection ended within a message") from error
        return None
    except ConnectionError:
        return None


def _check_length(length: int) -> None:
    if length > MAX_BYTES:
        raise ProtocolError(f"{length} bytes are too many for a message")


_ERRORS: Mapping[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (
        errors.DeviceFault,
        errors.OutOfDeviceMemory,
        errors.InvalidScores,
        errors.NetworkFailed,
        errors.Overloaded,
        errors.DeadlineUnreachable,
        StoreUnavailable,
        VersionNotFound,
    )
}


def describe_error(error: Exception) -> tuple[str, str]:
    """The name and the message of an error, as values of an answer."""
    if isinstance(error, ArtifactRejected):
        return error.reason.value, error.detail
    return type(error).__name__, str(error)


def restore_error(name: str, message: str) -> Exception:
    """The error of an answer. An unknown name becomes a RuntimeError, which fails only its request."""
    if name in RejectionReason.__members__.values():
        return ArtifactRejected(RejectionReason(name), message)
    kind = _ERRORS.get(name)
    return RuntimeError(f"{name}: {message}") if kind is None else kind(message)
