"""The keys of stored values, and the error for a value that does not belong to its key."""

import hashlib
import struct

import numpy as np

from animora_server.types import IntArray

FORMAT = b"rank:1:"
# Lengths go first, so that no two inputs run together into the same bytes.
_HEADER = struct.Struct("<qII")


class UnreadableValue(ValueError):
    """The stored value is damaged, forged, or belongs to another key."""


def rank_key(model_version: str, user_id: int, post_ids: IntArray, fingerprints: IntArray) -> bytes:
    """The key of one ranking's scores, printable, without the prefix of the installation.

    Args:
        model_version: The version that scores.
        user_id: Any signed 64-bit integer.
        post_ids: int64 (m), in canonical order: the same posts in another order are another key.
        fingerprints: int64 (m), of the posts' embeddings, so that new embeddings are a new key.
    """
    version = model_version.encode()
    digest = hashlib.blake2b(_HEADER.pack(user_id, len(version), len(post_ids)), digest_size=16)
    digest.update(version)
    digest.update(np.ascontiguousarray(post_ids, "<i8").data)
    digest.update(np.ascontiguousarray(fingerprints, "<i8").data)
    return FORMAT + digest.hexdigest().encode()


def stored_timeline_key(prefix: bytes, timeline_id: bytes, timeline_key: bytes) -> bytes:
    """Where a list is; `timeline_key` holds in braces what decides on the slot in a Cluster."""
    return b"%slist:%s:%s" % (prefix, timeline_id.hex().encode(), timeline_key)


def latest_key(prefix: bytes, timeline_key: bytes) -> bytes:
    """Where the pointer to the latest list of a timeline key is, in the slot of its lists."""
    return b"%slatest:%s" % (prefix, timeline_key)


def stored_timeline_pattern(prefix: bytes, timeline_id: bytes) -> bytes:
    """What SCAN matches with the lists of one id; no part of it has a letter that is special there."""
    return stored_timeline_key(prefix, timeline_id, b"*")


def current_generation_key(prefix: bytes) -> bytes:
    """Where the record of the generation is that timelines are served from."""
    return prefix + b"{generation}:current"


def building_generation_key(prefix: bytes) -> bytes:
    """Where the record of the generation is that is being built, in the slot of the current one's."""
    return prefix + b"{generation}:building"


def finished_shards_key(prefix: bytes, generation_id: bytes) -> bytes:
    """Where the set of the shards is that are done, in the slot of the records."""
    return b"%s{generation}:done:%s" % (prefix, generation_id.hex().encode())


def generation_posts_key(prefix: bytes, generation_id: bytes) -> bytes:
    """Where the posts are that all lists of a generation were ranked from, in the slot of the records."""
    return b"%s{generation}:posts:%s" % (prefix, generation_id.hex().encode())
