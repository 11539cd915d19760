"""The keys of stored values, and the error for a value that does not belong to its key."""

import hashlib
import struct

import numpy as np

from animora_server.types import IntArray

FORMAT = b"rank:1:"
# The lengths come first, so that different inputs never have the same bytes.
_HEADER = struct.Struct("<qII")


class UnreadableValue(ValueError):
    """The stored value is damaged, forged, or belongs to another key."""


def rank_key(model_version: str, user_id: int, post_ids: IntArray, fingerprints: IntArray) -> bytes:
    """The key of a ranking's scores, printable, without the prefix.

    Args:
        model_version: The model version.
        user_id: Any signed 64-bit integer.
        post_ids: int64 (m), in canonical order; another order gives another key.
        fingerprints: int64 (m), of the posts' embeddings; new embeddings give another key.
    """
    version = model_version.encode()
    digest = hashlib.blake2b(_HEADER.pack(user_id, len(version), len(post_ids)), digest_size=16)
    digest.update(version)
    digest.update(np.ascontiguousarray(post_ids, "<i8").data)
    digest.update(np.ascontiguousarray(fingerprints, "<i8").data)
    return FORMAT + digest.hexdigest().encode()


def stored_timeline_key(prefix: bytes, timeline_id: bytes, timeline_key: bytes) -> bytes:
    """The key of a ranked timeline. The braces in `timeline_key` determine its slot in a Cluster."""
    return b"%slist:%s:%s" % (prefix, timeline_id.hex().encode(), timeline_key)


def latest_key(prefix: bytes, timeline_key: bytes) -> bytes:
    """The key of the pointer to the latest timeline of a timeline key, in the same slot."""
    return b"%slatest:%s" % (prefix, timeline_key)


def stored_timeline_pattern(prefix: bytes, timeline_id: bytes) -> bytes:
    """The pattern for SCAN that matches the timelines of an id. No part has special letters to escape."""
    return stored_timeline_key(prefix, timeline_id, b"*")


def current_generation_key(prefix: bytes) -> bytes:
    """The key of the current generation's record."""
    return prefix + b"{generation}:current"


def building_generation_key(prefix: bytes) -> bytes:
    """The key of the record of the generation being built, in the slot of the current one's."""
    return prefix + b"{generation}:building"


def finished_shards_key(prefix: bytes, generation_id: bytes) -> bytes:
    """The key of the set of a generation's finished shards, in the slot of the records."""
    return b"%s{generation}:done:%s" % (prefix, generation_id.hex().encode())


def generation_posts_key(prefix: bytes, generation_id: bytes) -> bytes:
    """The key of the posts that a generation was ranked from, in the slot of the records."""
    return b"%s{generation}:posts:%s" % (prefix, generation_id.hex().encode())
