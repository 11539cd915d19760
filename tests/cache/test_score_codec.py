import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from animora_server.cache.queues import UnreadableValue
from animora_server.cache.score_codec import decode, encode, rank_key, size
from animora_server.types import FloatArray
from tests.cache.damage import damaged

keys = st.binary(max_size=80)
scores = arrays(np.float32, st.integers(0, 40), elements=st.floats(width=32))
ids = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=6)
inputs = st.tuples(
    st.text(st.sampled_from("ab0-"), max_size=4),
    st.integers(-(2**63), 2**63 - 1),
    ids.flatmap(lambda posts: st.tuples(st.just(posts), st.lists(
        st.integers(-(2**63), 2**63 - 1), min_size=len(posts), max_size=len(posts)
    ))),
)  # fmt: skip


def rank_key_of(version: str, user: int, candidates: tuple[list[int], list[int]]) -> bytes:
    posts, fingerprints = candidates
    return rank_key(version, user, np.array(posts, np.int64), np.array(fingerprints, np.int64))


@given(inputs, inputs)
def test_keys_are_equal_if_and_only_if_the_inputs_are(one, other):
    assert (rank_key_of(*one) == rank_key_of(*other)) == (one == other)


def test_a_key_is_the_same_in_every_process():
    assert rank_key_of("v1", 7, ([1, 2], [3, 4])) == b"rank:1:27614c358f5d6232ced12374e2be0df6"


def test_bytes_that_move_from_the_version_to_the_posts_change_the_key():
    # The version's bytes continue with what would be the first post's.
    assert rank_key_of("a", 1, ([0x6161616161616161], [0])) != rank_key_of("aaaaaaaaa", 1, ([0], []))


def test_arrays_that_are_not_contiguous_have_the_same_key():
    wide = np.arange(10, dtype=np.int64)
    assert rank_key("v", 1, wide[::2], wide[1::2]) == rank_key("v", 1, wide[::2].copy(), wide[1::2].copy())


def test_a_key_is_printable_and_short():
    made = rank_key_of("a" * 64, 7, (list(range(6)), list(range(6))))
    assert made.decode("ascii").isprintable()
    assert len(made) < 64


@given(keys, scores)
def test_decoded_scores_equal_the_encoded_ones_bit_by_bit(key: bytes, stored: FloatArray):
    found = decode(encode(key, stored), key, len(stored))
    assert found.dtype == np.float32
    assert found.tobytes() == stored.tobytes()


@given(keys, scores)
def test_size_is_that_of_an_encoded_value(key: bytes, stored: FloatArray):
    assert len(encode(key, stored)) == size(key, len(stored))


def test_the_encoding_is_that_of_earlier_server_versions():
    value = encode(b"k", np.array([1.0, -2.0], np.float32))
    assert value.hex() == "616e6d0101000000020000006b0000803f000000c0eab197a7"


def test_decoded_scores_are_writable():
    key = b"key"
    found = decode(encode(key, np.ones(3, np.float32)), key, 3)
    found += 1
    assert found.tolist() == [2, 2, 2]


@pytest.mark.failure(22)
@given(keys, scores, st.data())
def test_a_damaged_value_is_refused(key: bytes, stored: FloatArray, data: st.DataObject):
    for value in damaged(encode(key, stored), data):
        with pytest.raises(UnreadableValue):
            decode(value, key, len(stored))


@given(keys, keys, scores)
def test_a_value_of_another_key_is_refused(key: bytes, other: bytes, stored: FloatArray):
    assume(key != other)
    with pytest.raises(UnreadableValue):
        decode(encode(other, stored), key, len(stored))


@given(keys, scores, st.integers(0, 50))
def test_a_value_with_another_number_of_scores_is_refused(key: bytes, stored: FloatArray, count: int):
    assume(count != len(stored))
    with pytest.raises(UnreadableValue):
        decode(encode(key, stored), key, count)


@given(st.binary(max_size=200), keys, st.integers(0, 10))
def test_bytes_in_another_format_are_refused(value: bytes, key: bytes, count: int):
    with pytest.raises(UnreadableValue):
        decode(value, key, count)
