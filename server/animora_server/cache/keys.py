"""The key of a user's scores for a list of posts: the same in every process."""

import hashlib
import struct

import numpy as np

from animora_server.types import IntArray

FORMAT = b"rank:1:"
# Lengths go first, so that no two inputs run together into the same bytes.
_HEADER = struct.Struct("<qII")


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
