"""Page tokens: the ranked timeline that a caller scrolls through, the offset, and the expiry, signed.

    version        1 byte
    options        1 byte, 1 for include_seen
    timeline id    16 bytes
    offset         uint32
    expiry         uint32, unix seconds
    signature      16 bytes: keyed BLAKE2b of all the above and the user's id

in URL-safe base64. All numbers are little-endian. 42 bytes are 56 letters without padding, so each token has
exactly one text.
"""

import base64
import binascii
import hashlib
import hmac
import struct
from contextlib import suppress

from animora_server.errors import InvalidRequest, RankedTimelineGone
from animora_server.fast_dataclass import fast_dataclass

VERSION = 1
FIELD = "page_token"
_FIELDS = struct.Struct("<BB16sII")
_USER = struct.Struct("<q")
_SIGNATURE_SIZE = 16
LATEST_EXPIRY = 2**32 - 1  # in the year 2106; a host with a wrong clock may be later
_LETTERS = (_FIELDS.size + _SIGNATURE_SIZE) * 4 // 3


@fast_dataclass
class PageToken:
    """Where a user's next page begins.

    Attributes:
        user_id: Any signed 64-bit integer.
        include_seen: The option of the call.
        timeline_id: 16 bytes.
        offset: Where the page begins in the ranked timeline.
        expires_at: Unix seconds, whole.
    """

    user_id: int
    include_seen: bool
    timeline_id: bytes
    offset: int
    expires_at: int


class TokenSigner:
    """Signs tokens, and reads tokens that were signed with the same key."""

    def __init__(self, key: bytes) -> None:
        # A keyed hash takes a key of at most 64 bytes; the configured key may be longer.
        self._key = hashlib.blake2b(key, person=b"animora-page").digest()

    def sign(self, token: PageToken) -> str:
        """The text of a token: 56 letters, digits, - and _."""
        expires_at = min(token.expires_at, LATEST_EXPIRY)
        fields = _FIELDS.pack(VERSION, token.include_seen, token.timeline_id, token.offset, expires_at)
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
            raise InvalidRequest(FIELD, "not one that was given out for this user's timeline")
        if token.include_seen != include_seen:
            raise InvalidRequest(FIELD, "include_seen must be as it was for the page before")
        if now >= token.expires_at:
            raise RankedTimelineGone
        return token


def _unverified(text: str, user_id: int) -> PageToken | None:
    """The token in a text of the right form, before its signature is checked; None for other texts."""
    if len(text) != _LETTERS or not text.isascii():
        return None
    # The decoder skips letters outside the alphabet, which leaves too few bytes or raises.
    with suppress(binascii.Error, struct.error):
        _, options, timeline_id, offset, expires_at = _FIELDS.unpack_from(base64.urlsafe_b64decode(text))
        return PageToken(user_id, bool(options), timeline_id, offset, expires_at)
    return None
