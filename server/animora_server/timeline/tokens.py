"""Page tokens: which list a caller scrolls through, how far, and until when; signed, so that none is made up.

    version        1 byte
    options        1 byte, 1 for include_seen
    snapshot id    16 bytes
    offset         uint32
    expiry         uint32, unix seconds
    signature      16 bytes: keyed BLAKE2b of all the above and the user's id

in URL-safe base64. All numbers are little-endian. 42 bytes are 56 letters without padding, so that no two
texts stand for one token.
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
LATEST_EXPIRY = 2**32 - 1  # in the year 2106, where a host's clock may be by mistake
_LETTERS = (_FIELDS.size + _SIGNATURE_SIZE) * 4 // 3


@fast_dataclass
class PageToken:
    """Where a user's next page begins.

    Attributes:
        user_id: Any signed 64-bit integer.
        include_seen: The option that the list was asked for with.
        snapshot_id: 16 bytes, the list's.
        offset: How many of the list's posts had their turn.
        expires_at: Unix seconds, whole: when the scroll ends.
    """

    user_id: int
    include_seen: bool
    snapshot_id: bytes
    offset: int
    expires_at: int


class TokenSigner:
    """Writes tokens, and reads those that were signed with the same key."""

    def __init__(self, key: bytes) -> None:
        # A keyed hash takes 64 bytes at most; what is configured may be longer.
        self._key = hashlib.blake2b(key, person=b"animora-page").digest()

    def sign(self, token: PageToken) -> str:
        """The text of a token: 56 letters, digits, - and _."""
        expires_at = min(token.expires_at, LATEST_EXPIRY)
        fields = _FIELDS.pack(VERSION, token.include_seen, token.snapshot_id, token.offset, expires_at)
        signed = fields + _USER.pack(token.user_id)
        signature = hashlib.blake2b(signed, digest_size=_SIGNATURE_SIZE, key=self._key).digest()
        return base64.urlsafe_b64encode(fields + signature).decode()

    def read(self, text: str, user_id: int, include_seen: bool, now: float) -> PageToken:
        """The token in a text.

        Args:
            text: What a caller gave.
            user_id: Whose timeline they ask for.
            include_seen: The option that they ask with.
            now: Unix seconds.

        Raises:
            InvalidRequest: It was not given out for this user and these options.
            RankedTimelineGone: It has expired.
        """
        token = _claimed(text, user_id)
        # Signing it again compares all of the text: its version, and that nothing is spelt differently.
        if token is None or not hmac.compare_digest(self.sign(token), text):
            raise InvalidRequest(FIELD, "not one that was given out for this user's timeline")
        if token.include_seen != include_seen:
            raise InvalidRequest(FIELD, "include_seen must be as it was for the page before")
        if now >= token.expires_at:
            raise RankedTimelineGone
        return token


def _claimed(text: str, user_id: int) -> PageToken | None:
    """What a text of the right form says; whether it is genuine is for its signature to tell."""
    if len(text) != _LETTERS or not text.isascii():
        return None
    # Letters outside the alphabet are skipped, and leave too few bytes or a remainder that is an error.
    with suppress(binascii.Error, struct.error):
        _, options, snapshot_id, offset, expires_at = _FIELDS.unpack_from(base64.urlsafe_b64decode(text))
        return PageToken(user_id, bool(options), snapshot_id, offset, expires_at)
    return None
