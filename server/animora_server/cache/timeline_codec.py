"""The bytes of a timeline, of the pointer to a user's latest one, and of a generation's posts.

A timeline, all numbers little-endian:

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

The key, which ends in the snapshot's id and the timeline's key, is repeated as its digest, so that a value
that turns up under another key, or as the reply to another command, is not mistaken for this one's. Repeated
whole, it would take a list of 500 posts past 4096 bytes, and with that into an allocation of 5120.

A pointer is its magic, the digest of its key, the snapshot's id, when that was made, and a CRC-32.

The posts of a generation are their magic, the digest of their key, the bytes of an id (uint8), the smallest
id (int64), the ids as in a timeline, and a CRC-32.
"""

import hashlib
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from animora_server.cache.keys import UnreadableValue
from animora_server.fast_dataclass import fast_dataclass
from animora_server.types import DegradedReason, IntArray, RankedTimeline, RankerName

MAGIC = b"anl\x01"
POINTER_MAGIC = b"anp\x01"
POSTS_MAGIC = b"ang\x01"
NARROW_SPAN = 1 << 32

# Written down, so that a new member in between does not change what stored values mean.
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
    """Which list is a user's latest, and when it was made, in Unix seconds."""

    timeline_id: bytes
    made_at: float


def encode_timeline(key: bytes, snapshot: RankedTimeline) -> bytes:
    """The value of a list under a key.

    Raises:
        ValueError: The model version has more than 255 bytes.
    """
    smallest, stored = _pack_ids(snapshot.post_ids)
    version = snapshot.model_version.encode()
    if len(version) > 255:
        raise ValueError("the model version is too long")
    header = _HEADER.pack(
        MAGIC, _digest(key), RANKERS[snapshot.ranker], REASONS[snapshot.degraded_reason],
        stored.itemsize, len(version), snapshot.made_at, snapshot.fresh_until, snapshot.read_at,
        snapshot.cost, smallest,
    )  # fmt: skip
    return _with_checksum(
        b"".join((header, version, stored.tobytes(), snapshot.scores.astype(_SCORE).tobytes()))
    )


def decode_timeline(value: bytes, key: bytes, timeline_id: bytes) -> RankedTimeline:
    """The list in a value; its arrays may not be written to.

    Args:
        value: What is stored.
        key: Where it is stored.
        timeline_id: The id that the key was made of.

    Raises:
        UnreadableValue: It was stored under another key, or was damaged.
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
        raise UnreadableValue("not of this version's making") from error


def encode_pointer(key: bytes, pointer: LatestPointer) -> bytes:
    """The value of a pointer under a key."""
    return _with_checksum(_POINTER.pack(POINTER_MAGIC, _digest(key), pointer.timeline_id, pointer.made_at))


def decode_pointer(value: bytes, key: bytes) -> LatestPointer:
    """The pointer in a value that is stored under a key.

    Raises:
        UnreadableValue: It was stored under another key, or was damaged.
    """
    if _checked_end(value, key, POINTER_MAGIC, _POINTER.size) != _POINTER.size:
        raise UnreadableValue("too long")
    _, _, timeline_id, made_at = _POINTER.unpack_from(value)
    return LatestPointer(timeline_id, made_at)


def encode_posts(key: bytes, post_ids: IntArray) -> bytes:
    """The value of a generation's posts int64 (k) under a key."""
    smallest, stored = _pack_ids(post_ids)
    return _with_checksum(
        _POSTS.pack(POSTS_MAGIC, _digest(key), stored.itemsize, smallest) + stored.tobytes()
    )


def decode_posts(value: bytes, key: bytes) -> IntArray:
    """The generation's posts int64 (k), in the order that they were stored in; not to be written to.

    Raises:
        UnreadableValue: It was stored under another key, or was damaged.
    """
    end = _checked_end(value, key, POSTS_MAGIC, _POSTS.size)
    _, _, width, smallest = _POSTS.unpack_from(value)
    if width not in _ID_OF:
        raise UnreadableValue("not of this version's making")
    count, rest = divmod(end - _POSTS.size, width)
    if rest:
        raise UnreadableValue("not a whole number of posts")
    return _unpack_ids(value, _ID_OF[width], count, _POSTS.size, smallest)


def _pack_ids(ids: IntArray) -> tuple[int, npt.NDArray[Any]]:
    """The smallest of ids int64 (n), and the ids as they are stored: uint32 above it, or int64."""
    smallest, largest = (int(ids.min()), int(ids.max())) if len(ids) else (0, 0)
    narrow = largest - smallest < NARROW_SPAN
    return smallest, (ids - smallest).astype(_NARROW) if narrow else ids.astype(_WIDE)


def _unpack_ids(value: bytes, id_type: np.dtype[Any], count: int, start: int, smallest: int) -> IntArray:
    """The ids int64 (count) that begin at a byte of a value."""
    ids = np.frombuffer(value, id_type, count, start)
    return ids if id_type is _WIDE else ids + np.int64(smallest)


def _digest(key: bytes) -> bytes:
    return hashlib.blake2b(key, digest_size=8).digest()


def _with_checksum(body: bytes) -> bytes:
    return body + _CHECKSUM.pack(zlib.crc32(body))


def _checked_end(value: bytes, key: bytes, magic: bytes, header: int) -> int:
    """Where the checksum begins, if the value is whole and the key's."""
    end = len(value) - _CHECKSUM.size
    if end < header or not value.startswith(magic + _digest(key)):
        raise UnreadableValue("not a value of this key")
    if _CHECKSUM.unpack_from(value, end)[0] != zlib.crc32(memoryview(value)[:end]):
        raise UnreadableValue("the checksum differs")
    return end
