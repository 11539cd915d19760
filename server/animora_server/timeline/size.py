"""How many bytes of Redis a list takes at most."""

from animora_server.types import IntArray

SCORE_BYTES = 4
ID_BYTES = 8
NARROW_ID_BYTES = 4
# Ids within this distance of the smallest are stored as it.
NARROW_SPAN = 1 << 32
# The key with the longest prefix, the header with the longest name of a version, and the checksum.
FRAME_BYTES = 250


def list_bytes(post_ids: IntArray) -> int:
    """Bytes that the key and the value of a list of posts int64 (n) take at most."""
    return FRAME_BYTES + len(post_ids) * _post_bytes(post_ids)


def posts_that_fit(post_ids: IntArray, max_bytes: int) -> int:
    """How many of the first posts int64 (n) of a list fit into so many bytes of Redis."""
    return min(len(post_ids), max(0, max_bytes - FRAME_BYTES) // _post_bytes(post_ids))


def _post_bytes(post_ids: IntArray) -> int:
    narrow = not len(post_ids) or int(post_ids.max()) - int(post_ids.min()) < NARROW_SPAN
    return SCORE_BYTES + (NARROW_ID_BYTES if narrow else ID_BYTES)
