"""The bytes of cached scores: a header, the key once more, float32 scores, a checksum.

    magic and layout version   4 bytes
    length of the key          uint32
    number of scores           uint32
    key
    scores                     float32 each
    CRC-32 of all the above    uint32

All numbers are little-endian. The key is repeated so that a value which turns up under another key, or as
the reply to another command, is not mistaken for this one's. The checksum finds accidents; whoever can write
to Redis can forge values.
"""

import struct
import zlib

import numpy as np

from animora_server.cache.keys import UnreadableValue
from animora_server.types import FloatArray

MAGIC = b"anm\x01"
_HEADER = struct.Struct("<4sII")
_CHECKSUM = struct.Struct("<I")


def encode(key: bytes, scores: FloatArray) -> bytes:
    """The value of a key and its scores float32 (m)."""
    body = _head(key, len(scores)) + scores.astype("<f4", copy=False).tobytes()
    return body + _CHECKSUM.pack(zlib.crc32(body))


def decode(value: bytes, key: bytes, count: int) -> FloatArray:
    """The scores float32 (count) in a value, an array of their own.

    Raises:
        UnreadableValue: It was stored under another key, holds another number of scores, or was damaged.
    """
    head = _head(key, count)
    end = len(head) + 4 * count
    if len(value) != end + _CHECKSUM.size or not value.startswith(head):
        raise UnreadableValue("not a value of this key and size")
    if _CHECKSUM.unpack_from(value, end)[0] != zlib.crc32(memoryview(value)[:end]):
        raise UnreadableValue("the checksum differs")
    return np.frombuffer(value, "<f4", count, len(head)).astype(np.float32)


def size(key: bytes, count: int) -> int:
    """Bytes of the value of a key and so many scores."""
    return _HEADER.size + len(key) + 4 * count + _CHECKSUM.size


def _head(key: bytes, count: int) -> bytes:
    return _HEADER.pack(MAGIC, len(key), count) + key
