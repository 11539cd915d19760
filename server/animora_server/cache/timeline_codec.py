"""Keys and values in Redis of a ranked timeline and of the pointer to the latest one; a generation's posts.

A ranked timeline, all numbers little-endian:

    magic and layout version   4 bytes
    digest of the key          8 bytes
    ranker                     uint8
    degraded reason            uint8, 0 for none
    bytes of an id             uint8, 4 or 8
    length of the version      uint8
    made, fresh until, read    float64 each, Unix seconds
    cost                       float64, seconds
    smallest id                int64
    model version              UTF-8
    ids                        uint32 above the smallest where all of them fit, else int64
    scores                     float32 each
    CRC-32 of all the above    uint32

The digest of the key is repeated so that a value under a wrong key, or the reply to another command, is
detected. The whole key would make a timeline of 500 posts larger than 4096 bytes, for which Redis allocates
5120.

A pointer is its magic, the digest of its key, the timeline's id, the timeline's `made_at`, and a CRC-32.

The posts of a generation are their magic, the digest of their key, the bytes of an id (uint8), the smallest
id (int64), the ids as in a timeline, and a CRC-32.
"""

import hashlib
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from animora_server.cache.queues import UnreadableValue
from animora_server.fast_dataclass import fast_dataclass
from animora_server.types import DegradedReason, IntArray, RankedTimeline, RankerName

MAGIC = b"anl\x01"
POINTER_MAGIC = b"anp\x01"
POSTS_MAGIC = b"ang\x01"
NARROW_SPAN = 1 << 32

# Explicit, so that a new enum member does not change the meaning of stored values.
RANKERS = {RankerName.NEUCF: 1, RankerName.HEURISTIC: 2}
REASONS = {
    None: 0,
    DegradedReason.NO_MODEL: 1,
    DegradedReason.OVERLOADED: 2,
    DegradedReason.DEADLINE: 3,
    DegradedReason.DEVICE_FAULT: 4,
    DegradedReason.INVALID_SCORES: 5,
}
_RANKER_OF = {code: ranker for ranker, code in RANKERS.items()}
_REASON_OF = {code: reason for reason, code in REASONS.items()}

_HEADER = struct.Struct("<4s8sBBBBddddq")
_POINTER = struct.Struct("<4s8s16sd")
_POSTS = struct.Struct("<4s8sBq")
_CHECKSUM = struct.Struct("<I")
_NARROW, _WIDE, _SCORE = np.dtype("<u4"), np.dtype("<i8"), np.dtype("<f4")
_ID_OF: dict[int, np.dtype[Any]] = {4: _NARROW, 8: _WIDE}


@fast_dataclass
class LatestPointer:
    """The id of a user's latest timeline, 16 bytes, and the time when it was built, in Unix seconds."""

    timeline_id: bytes
    made_at: float


def stored_timeline_key(prefix: bytes, timeline_id: bytes, timeline_key: bytes) -> bytes:
    """The key of a ranked timeline. The braces in `timeline_key` determine its slot in a Cluster."""
    return b"%slist:%s:%s" % (prefix, timeline_id.hex().encode(), timeline_key)


def latest_key(prefix: bytes, timeline_key: bytes) -> bytes:
    """The key of the pointer to the latest timeline of a timeline key, in the same slot."""
    return b"%slatest:%s" % (prefix, timeline_key)


def stored_timeline_pattern(prefix: bytes, timeline_id: bytes) -> bytes:
    """The pattern for SCAN that matches the timelines of an id. No part has special letters to escape."""
    return stored_timeline_key(prefix, timeline_id, b"*")


def encode_timeline(key: bytes, timeline: RankedTimeline) -> bytes:
    """Encodes a ranked timeline under a key.

    Raises:
        ValueError: The model version has more than 255 bytes.
    """
    smallest, stored = _pack_ids(timeline.post_ids)
    version = timeline.model_version.encode()
    if len(version) > 255:
        raise ValueError("the model version is too long")
    header = _HEADER.pack(
        MAGIC, _digest(key), RANKERS[timeline.ranker], REASONS[timeline.degraded_reason],
        stored.itemsize, len(version), timeline.made_at, timeline.fresh_until, timeline.read_at,
        timeline.cost, smallest,
    )  # fmt: skip
    return _with_checksum(
        b"".join((header, version, stored.tobytes(), timeline.scores.astype(_SCORE).tobytes()))
    )


def decode_timeline(value: bytes, key: bytes, timeline_id: bytes) -> RankedTimeline:
    """Decodes a ranked timeline; its arrays are read-only.

    Args:
        value: The stored value.
        key: The key of the value.
        timeline_id: The id in the key.

    Raises:
        UnreadableValue: The value is damaged or of another key.
    """
    end = _checked_end(value, key, MAGIC, _HEADER.size)
    _, _, ranker, reason, width, length, made_at, fresh_until, read_at, cost, smallest = _HEADER.unpack_from(
        value
    )
    start = _HEADER.size + length
    try:
        id_type = _ID_OF[width]
        count, rest = divmod(end - start, width + _SCORE.itemsize)
        if rest or count < 0:
            raise UnreadableValue("not a whole number of posts")
        return RankedTimeline(
            timeline_id, _unpack_ids(value, id_type, count, start, smallest),
            np.frombuffer(value, _SCORE, count, start + width * count), _RANKER_OF[ranker],
            value[_HEADER.size : start].decode(), made_at, fresh_until, read_at, cost, _REASON_OF[reason],
        )  # fmt: skip
    except (KeyError, UnicodeDecodeError) as error:
        raise UnreadableValue("unknown codes") from error


def encode_pointer(key: bytes, pointer: LatestPointer) -> bytes:
    """Encodes a pointer under a key."""
    return _with_checksum(_POINTER.pack(POINTER_MAGIC, _digest(key), pointer.timeline_id, pointer.made_at))


def decode_pointer(value: bytes, key: bytes) -> LatestPointer:
    """Decodes a pointer.

    Raises:
        UnreadableValue: The value is damaged or of another key.
    """
    if _checked_end(value, key, POINTER_MAGIC, _POINTER.size) != _POINTER.size:
        raise UnreadableValue("too long")
    _, _, timeline_id, made_at = _POINTER.unpack_from(value)
    return LatestPointer(timeline_id, made_at)


def encode_posts(key: bytes, post_ids: IntArray) -> bytes:
    """Encodes a generation's posts int64 (k) under a key."""
    smallest, stored = _pack_ids(post_ids)
    return _with_checksum(
        _POSTS.pack(POSTS_MAGIC, _digest(key), stored.itemsize, smallest) + stored.tobytes()
    )


def decode_posts(value: bytes, key: bytes) -> IntArray:
    """Decodes a generation's posts int64 (k), in stored order; the array may be read-only.

    Raises:
        UnreadableValue: The value is damaged or of another key.
    """
    end = _checked_end(value, key, POSTS_MAGIC, _POSTS.size)
    _, _, width, smallest = _POSTS.unpack_from(value)
    if width not in _ID_OF:
        raise UnreadableValue("unknown codes")
    count, rest = divmod(end - _POSTS.size, width)
    if rest:
        raise UnreadableValue("not a whole number of posts")
    return _unpack_ids(value, _ID_OF[width], count, _POSTS.size, smallest)


def _pack_ids(ids: IntArray) -> tuple[int, npt.NDArray[Any]]:
    """The smallest of ids int64 (n), and the packed ids: uint32 offsets from the smallest, or int64."""
    smallest, largest = (int(ids.min()), int(ids.max())) if len(ids) else (0, 0)
    narrow = largest - smallest < NARROW_SPAN
    return smallest, (ids - smallest).astype(_NARROW) if narrow else ids.astype(_WIDE)


def _unpack_ids(value: bytes, id_type: np.dtype[Any], count: int, start: int, smallest: int) -> IntArray:
    """Unpacks ids int64 (count) from a byte offset of a value."""
    ids = np.frombuffer(value, id_type, count, start)
    return ids if id_type is _WIDE else ids + np.int64(smallest)


def _digest(key: bytes) -> bytes:
    return hashlib.blake2b(key, digest_size=8).digest()


def _with_checksum(body: bytes) -> bytes:
    return body + _CHECKSUM.pack(zlib.crc32(body))


def _checked_end(value: bytes, key: bytes, magic: bytes, header: int) -> int:
    """Checks the magic, the key and the checksum. Returns the offset of the checksum.

    Raises:
        UnreadableValue: The value is damaged or of another key.
    """
    end = len(value) - _CHECKSUM.size
    if end < header or not value.startswith(magic + _digest(key)):
        raise UnreadableValue("not a value of this key")
    if _CHECKSUM.unpack_from(value, end)[0] != zlib.crc32(memoryview(value)[:end]):
        raise UnreadableValue("the checksum differs")
    return end
