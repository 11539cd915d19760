"""Pagination: pages are cut from a ranked timeline; signed page tokens say where the next page begins.

A page token holds the ranked timeline that a caller scrolls through, the offset, and the expiry:

    version        1 byte: 1, or 2 with an arm
    options        1 byte, 1 for include_seen
    timeline id    16 bytes
    offset         uint32
    expiry         uint32, unix seconds
    arm            6 bytes, a hash of the arm's name; only in version 2, absent for the control arm
    signature      16 bytes: keyed BLAKE2b of all the above and the user's id

in URL-safe base64. All numbers are little-endian. 42 bytes are 56 letters without padding, and 48 are 64, so
each token has exactly one text.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import numpy as np
import structlog

from animora_server.errors import InvalidRequest, RankedTimelineGone
from animora_server.fast_dataclass import fast_dataclass
from animora_server.settings import TimelineSettings
from animora_server.types import BoolArray, FloatArray, IntArray

log = structlog.get_logger(__name__)

# Which posts int64 (n) may be shown now: bool (n).
VisibilityCheck = Callable[[IntArray], BoolArray]
# Posts checked at once beyond the page size, so that a few hidden posts cost no second check.
MARGIN = 12

TOKEN_VERSION, ARM_TOKEN_VERSION = 1, 2
ARM_BYTES = 6
TOKEN_FIELD = "page_token"
_FIELDS = struct.Struct("<BB16sII")
_USER = struct.Struct("<q")
_SIGNATURE_SIZE = 16
LATEST_EXPIRY = 2**32 - 1  # in the year 2106; a host with a wrong clock may be later
_LETTERS = (_FIELDS.size + _SIGNATURE_SIZE) * 4 // 3
_ARM_LETTERS = _LETTERS + ARM_BYTES * 4 // 3


class OrderedPosts(Protocol):
    """Posts in order, best first."""

    @property
    def post_ids(self) -> IntArray:
        """int64 (n), distinct."""
        ...

    @property
    def scores(self) -> FloatArray:
        """float32 (n)."""
        ...


@fast_dataclass
class PageSlice:
    """One page.

    Attributes:
        positions: int64 (k), the posts' positions in the timeline.
        next_offset: Where the next page begins in the timeline; None if nothing is left to show.
    """

    positions: IntArray
    next_offset: int | None


def paginate(post_ids: IntArray, offset: int, size: int, shown: VisibilityCheck) -> PageSlice:
    """Cuts a page from a timeline.

    Args:
        post_ids: int64 (n), the timeline.
        offset: Where the page begins.
        size: Maximum number of posts on the page.
        shown: The visibility check; it also decides whether there is a next page.
    """
    found: list[IntArray] = []
    count = 0
    while offset < len(post_ids) and count <= size:  # one more than the page: is there another?
        chunk = post_ids[offset : offset + size + MARGIN]
        here = shown(chunk).nonzero()[0] + offset
        found.append(here)
        count += len(here)
        offset += len(chunk)
    positions = found[0] if len(found) == 1 else np.concatenate(found or [np.empty(0, np.int64)])
    page = positions[:size]
    return PageSlice(page, int(page[-1]) + 1 if count > size else None)


def paginate_merged(
    timeline: OrderedPosts, newer: OrderedPosts, size: int, shown: VisibilityCheck
) -> PageSlice:
    """Cuts the first page of a timeline with newer posts merged in by score.

    The timeline keeps its order. Newer posts that do not fit on this page are on no later page: the next
    ranked timeline holds them.

    Args:
        timeline: The timeline.
        newer: Posts that are not in the timeline, best first, with comparable scores.
        size: Maximum number of posts on the page.
        shown: The visibility check.

    Returns:
        Positions in the timeline; from the timeline's length on, in the newer posts. The offset is in the
        timeline.
    """
    post_ids = np.concatenate((timeline.post_ids, newer.post_ids))
    order = merge_order(timeline.scores, newer.scores)
    first = paginate(post_ids[order], 0, size, shown)
    positions = order[first.positions]
    if first.next_offset is None:
        return PageSlice(positions, None)
    passed = int(np.count_nonzero(order[: first.next_offset] < len(timeline.post_ids)))
    rest = paginate(timeline.post_ids, passed, 1, shown)
    return PageSlice(positions, passed if len(rest.positions) else None)


def merge_order(scores: FloatArray, newer: FloatArray) -> IntArray:
    """The merged order of a timeline and newer posts. Both keep their own order.

    A newer post goes before the first timeline post from which on no post has a higher score. So it does not
    pass a better post that comes after an explored one.

    Args:
        scores: float32 (n), the timeline's.
        newer: float32 (m), best first.

    Returns:
        int64 (n + m): positions in the timeline, and from n on in the newer posts.
    """
    best_from = np.maximum.accumulate(scores[::-1])  # worst first
    before = len(scores) - np.searchsorted(best_from, newer, side="right")
    before = np.maximum.accumulate(before)  # the newer posts may hold an explored post, too
    return np.insert(np.arange(len(scores)), before, np.arange(len(newer)) + len(scores))


@fast_dataclass
class PageToken:
    """Where a user's next page begins.

    Attributes:
        user_id: Any signed 64-bit integer.
        include_seen: The option of the call.
        timeline_id: 16 bytes.
        offset: Where the page begins in the ranked timeline.
        expires_at: Unix seconds, whole.
        arm: `arm_bytes` of the arm that serves the scroll; empty for the control arm.
    """

    user_id: int
    include_seen: bool
    timeline_id: bytes
    offset: int
    expires_at: int
    arm: bytes = b""


def arm_bytes(name: str) -> bytes:
    """The bytes of a page token that stand for an arm."""
    return hashlib.blake2b(name.encode(), digest_size=ARM_BYTES, person=b"animora-arm").digest()


class TokenSigner:
    """Signs tokens, and reads tokens that were signed with the same key."""

    def __init__(self, key: bytes) -> None:
        # A keyed hash takes a key of at most 64 bytes; the configured key may be longer.
        self._key = hashlib.blake2b(key, person=b"animora-page").digest()

    def sign(self, token: PageToken) -> str:
        """The text of a token: 56 letters, digits, - and _; 64 with an arm."""
        expires_at = min(token.expires_at, LATEST_EXPIRY)
        version = ARM_TOKEN_VERSION if token.arm else TOKEN_VERSION
        fields = _FIELDS.pack(version, token.include_seen, token.timeline_id, token.offset, expires_at)
        fields += token.arm
        signed = fields + _USER.pack(token.user_id)
        signature = hashlib.blake2b(signed, digest_size=_SIGNATURE_SIZE, key=self._key).digest()
        return base64.urlsafe_b64encode(fields + signature).decode()

    def read(self, text: str, user_id: int, include_seen: bool, now: float) -> PageToken:
        """Reads and verifies a token.

        Args:
            text: The page token of the call.
            user_id: The user of the call.
            include_seen: The option of the call.
            now: Unix seconds.

        Raises:
            InvalidRequest: The token was not signed for this user and these options.
            RankedTimelineGone: The token has expired.
        """
        token = _unverified(text, user_id)
        # Comparing with a newly signed text also checks the version and the exact spelling.
        if token is None or not hmac.compare_digest(self.sign(token), text):
            raise InvalidRequest(TOKEN_FIELD, "not one that was given out for this user's timeline")
        if token.include_seen != include_seen:
            raise InvalidRequest(TOKEN_FIELD, "include_seen must be as it was for the page before")
        if now >= token.expires_at:
            raise RankedTimelineGone
        return token


def token_signer(settings: TimelineSettings) -> TokenSigner:
    """The signer with the configured key, or with a random one."""
    key = settings.token_key.get_secret_value().encode()
    if not key:
        log.warning("timeline.token_key is not set: page tokens are valid for this process only")
    return TokenSigner(key or secrets.token_bytes(32))


def _unverified(text: str, user_id: int) -> PageToken | None:
    """The token in a text of the right form, before its signature is checked; None for other texts."""
    if len(text) not in (_LETTERS, _ARM_LETTERS) or not text.isascii():
        return None
    # The decoder skips letters outside the alphabet, which leaves too few bytes or raises.
    with suppress(binascii.Error, struct.error):
        data = base64.urlsafe_b64decode(text)
        _, options, timeline_id, offset, expires_at = _FIELDS.unpack_from(data)
        arm = data[_FIELDS.size : -_SIGNATURE_SIZE]
        return PageToken(user_id, bool(options), timeline_id, offset, expires_at, arm)
    return None
