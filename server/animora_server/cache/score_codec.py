"""The keys of cached scores, and their encoding: a header, the key again, float32 scores, a checksum.

    magic and layout version   4 bytes
    length of the key          uint32
    number of scores           uint32
    key
    scores                     float32 each
    CRC-32 of all the above    uint32

All numbers are little-endian. The key is repeated so that a value under a wrong key, or the reply to another
command, is detected. The checksum detects damage, not forgery.
"""

import hashlib
import struct
import zlib

import numpy as np

from animora_server.cache.queues import UnreadableValue
from animora_server.types import FloatArray, IntArray

KEY_FORMAT = b"rank:1:"
MAGIC = b"anm\x01"
_HEADER = struct.Struct("<4sII")
_CHECKSUM = struct.Struct("<I")
# Of the key's input. The lengths come first, so that different inputs never have the same bytes.
_INPUT_HEADER = struct.Struct("<qII")


def rank_key(model_version: str, user_id: int, post_ids: IntArray, fingerprints: IntArray) -> bytes:
    """The key of a ranking's scores, printable, without the prefix.

    Args:
        model_version: The model version.
        user_id: Any signed 64-bit integer.
        post_ids: int64 (m), in canonical order; another order gives another key.
        fingerprints: int64 (m), of the posts' embeddings; new embeddings give another key.
    """
    version = model_version.encode()
    digest = hashlib.blake2b(_INPUT_HEADER.pack(user_id, len(version), len(post_ids)), digest_size=16)
    digest.update(version)
    digest.update(np.ascontiguousarray(post_ids, "<i8").data)
    digest.update(np.ascontiguousarray(fingerprints, "<i8").data)
    return KEY_FORMAT + digest.hexdigest().encode()


def encode(key: bytes, scores: FloatArray) -> bytes:
    """Encodes scores float32 (m) under a key."""
    body = _head(key, len(scores)) + scores.astype("<f4", copy=False).tobytes()
    return body + _CHECKSUM.pack(zlib.crc32(body))


def decode(value: bytes, key: bytes, count: int) -> FloatArray:
    """Decodes scores float32 (count); the array is a copy.

    Raises:
        UnreadableValue: The value is damaged, of another key, or has another number of scores.
    """
    head = _head(key, count)
    end = len(head) + 4 * count
    if len(value) != end + _CHECKSUM.size or not value.startswith(head):
        raise UnreadableValue("not a value of this key and size")
    if _CHECKSUM.unpack_from(value, end)[0] != zlib.crc32(memoryview(value)[:end]):
        raise UnreadableValue("the checksum differs")
    return np.frombuffer(value, "<f4", count, len(head)).astype(np.float32)


def size(key: bytes, count: int) -> int:
    """The size of a value in bytes, for a key and a number of scores."""
    return _HEADER.size + len(key) + 4 * count + _CHECKSUM.size


def _head(key: bytes, count: int) -> bytes:
    return _HEADER.pack(MAGIC, len(key), count) + key
