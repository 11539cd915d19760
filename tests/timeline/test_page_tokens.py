"""Page tokens: signed tokens are read back, all others are refused."""

import math
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from animora_server.errors import InvalidRequest, RankedTimelineGone
from animora_server.timeline.pages import PageToken, TokenSigner, arm_bytes

KEY = b"sixteen bytes or"
NOW = 1_700_000_000.0
TOKEN = PageToken(user_id=7, include_seen=False, timeline_id=b"s" * 16, offset=20, expires_at=int(NOW) + 60)
SIGNER = TokenSigner(KEY)
TEXT = SIGNER.sign(TOKEN)
ALPHABET = string.ascii_letters + string.digits + "-_"

int64 = st.integers(-(2**63), 2**63 - 1)
tokens = st.builds(
    PageToken,
    user_id=int64,
    include_seen=st.booleans(),
    timeline_id=st.binary(min_size=16, max_size=16),
    offset=st.integers(0, 2**32 - 1),
    expires_at=st.integers(math.ceil(NOW) + 1, 2**32 - 1),
    arm=st.sampled_from((b"", arm_bytes("canary"), arm_bytes("other"))),
)


def refused(text: str, user_id: int = 7, include_seen: bool = False) -> str:
    with pytest.raises(InvalidRequest) as caught:
        SIGNER.read(text, user_id, include_seen, NOW)
    assert caught.value.field == "page_token"
    return caught.value.description


@given(tokens)
def test_a_signed_token_is_read_back(token):
    text = SIGNER.sign(token)
    assert SIGNER.read(text, token.user_id, token.include_seen, NOW) == token
    assert TokenSigner(KEY).read(text, token.user_id, token.include_seen, NOW) == token


@given(tokens)
def test_a_token_is_short_and_fit_for_a_url(token):
    text = SIGNER.sign(token)
    assert len(text) == (64 if token.arm else 56)
    assert set(text) <= set(ALPHABET)


@given(tokens, st.integers(0, 56 * 6 - 1))
def test_a_token_with_one_bit_flipped_is_refused(token, bit):
    letters = list(SIGNER.sign(token))
    at, place = divmod(bit, 6)
    alphabet = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
    letters[at] = alphabet[alphabet.index(letters[at]) ^ 1 << place]
    refused("".join(letters), token.user_id, token.include_seen)


@given(st.integers(0, 55), st.integers(0, 7))
def test_a_text_with_one_bit_flipped_is_refused(at, bit):
    letters = list(TEXT)
    letters[at] = chr(ord(letters[at]) ^ 1 << bit)
    refused("".join(letters))


@given(st.integers(0, 55))
def test_a_truncated_token_is_refused(length):
    refused(TEXT[:length])


@given(st.text(max_size=60) | st.text(min_size=56, max_size=56) | st.text(ALPHABET, min_size=56, max_size=56))
def test_a_text_in_another_format_is_refused(text):
    refused(text)


@given(st.integers(0, 56), st.sampled_from(["\n", " ", "=", "A", "é"]))
def test_a_token_with_an_additional_letter_is_refused(at, letter):
    refused(TEXT[:at] + letter + TEXT[at:])


@given(st.integers(0, 55), st.sampled_from(["\n", " ", "=", "+", "é"]))
def test_a_token_with_a_letter_outside_the_alphabet_is_refused(at, letter):
    refused(TEXT[:at] + letter + TEXT[at + 1 :])


def test_a_token_in_the_other_base64_alphabet_is_refused():
    token = next(
        text
        for offset in range(1000)
        if "-" in (text := SIGNER.sign(PageToken(7, False, b"s" * 16, offset, int(NOW) + 60)))
    )
    refused(token.replace("-", "+"))


@given(int64.filter(lambda user_id: user_id != 7))
def test_another_users_token_is_refused(user_id):
    refused(TEXT, user_id=user_id)


def test_a_token_for_other_options_is_refused_and_says_so():
    assert "include_seen" in refused(TEXT, include_seen=True)


def test_a_token_signed_with_another_key_is_refused():
    refused(TokenSigner(KEY + b"!").sign(TOKEN))


def test_a_key_may_be_longer_than_a_hash_takes():
    long = TokenSigner(b"k" * 1000)
    assert long.read(long.sign(TOKEN), 7, False, NOW) == TOKEN
    refused(long.sign(TOKEN))


def test_a_token_lasts_until_it_expires():
    assert SIGNER.read(TEXT, 7, False, NOW + 59.9) == TOKEN
    with pytest.raises(RankedTimelineGone):
        SIGNER.read(TEXT, 7, False, NOW + 60)


def test_a_forged_token_is_refused_however_old_it_is():
    with pytest.raises(InvalidRequest):
        SIGNER.read(TEXT, 8, False, NOW + 1000)
