import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from animora_server.cache.queues import UnreadableValue
from animora_server.cache.timeline_codec import (
    RANKERS,
    REASONS,
    LatestPointer,
    decode_pointer,
    decode_posts,
    decode_timeline,
    encode_pointer,
    encode_posts,
    encode_timeline,
    stored_timeline_key,
)
from animora_server.timeline.feed_ranker import posts_that_fit, stored_bytes
from animora_server.timeline.store import timeline_key
from animora_server.types import DegradedReason, RankedTimeline, RankerName
from tests.cache.damage import damaged

INT64 = st.integers(-(2**63), 2**63 - 1)
LONGEST_PREFIX = b"x" * 32 + b":"
LONGEST_VERSION = "v" * 64
ENCODED_TIMELINE = (
    "616e6c01ac52cb5ff985d46302020401000000000000f03f0000000000000040000000000000e03f000000000000d03f"
    "03000000000000007602000000000000000000803f000000c043c65852"
)
ENCODED_POINTER = "616e7001ac52cb5ff985d46373737373737373737373737373737373000000000000f03f9ee82b9d"

keys = st.binary(max_size=80)
snapshot_ids = st.binary(min_size=16, max_size=16)
times = st.floats(allow_nan=False)
id_lists = st.lists(INT64, max_size=40, unique=True) | st.lists(
    st.integers(10**9, 10**9 + 2**32 - 1), max_size=40, unique=True
)


@st.composite
def snapshots(draw: st.DrawFn) -> RankedTimeline:
    ids = np.array(draw(id_lists), np.int64)
    return RankedTimeline(
        timeline_id=draw(snapshot_ids),
        post_ids=ids,
        scores=draw(arrays(np.float32, len(ids), elements=st.floats(width=32))),
        ranker=draw(st.sampled_from(RankerName)),
        model_version=draw(st.text(st.characters(codec="utf-8"), max_size=60)),
        made_at=draw(times),
        fresh_until=draw(times),
        read_at=draw(times),
        cost=draw(times),
        degraded_reason=draw(st.none() | st.sampled_from(DegradedReason)),
    )


def contents(snapshot: RankedTimeline) -> tuple[object, ...]:
    """The values of a timeline, bit by bit, for comparison."""
    rest = replace(snapshot, post_ids=np.empty(0, np.int64), scores=np.empty(0, np.float32))
    return (
        snapshot.post_ids.dtype, snapshot.post_ids.tolist(), snapshot.scores.dtype,
        snapshot.scores.tobytes(), repr(rest),
    )  # fmt: skip


@given(keys, snapshots())
def test_a_decoded_timeline_equals_the_encoded_one_bit_by_bit(key: bytes, snapshot: RankedTimeline):
    found = decode_timeline(encode_timeline(key, snapshot), key, snapshot.timeline_id)
    assert contents(found) == contents(snapshot)


def test_every_ranker_and_reason_has_a_code_of_its_own():
    assert set(RANKERS) == set(RankerName)
    assert set(REASONS) == {None, *DegradedReason}
    for codes in (RANKERS, REASONS):
        assert len(set(codes.values())) == len(codes)


def test_the_encoding_is_that_of_earlier_server_versions():
    snapshot = RankedTimeline(
        b"s" * 16, np.array([5, 3]), np.array([1, -2], np.float32), RankerName.HEURISTIC, "v",
        made_at=1.0, fresh_until=2.0, read_at=0.5, cost=0.25, degraded_reason=DegradedReason.OVERLOADED,
    )  # fmt: skip
    assert encode_timeline(b"k", snapshot).hex() == ENCODED_TIMELINE
    assert encode_pointer(b"k", LatestPointer(b"s" * 16, 1.0)).hex() == ENCODED_POINTER


@given(id_lists)
def test_ids_take_four_bytes_if_they_lie_within_32_bits_and_else_eight(ids: list[int]):
    is_narrow = not ids or max(ids) - min(ids) < 2**32
    snapshot = make(np.array(ids, np.int64))
    empty = make(np.empty(0, np.int64))
    grown = len(encode_timeline(b"", snapshot)) - len(encode_timeline(b"", empty))
    assert grown == len(ids) * (8 if is_narrow else 12)


@given(id_lists, INT64)
def test_stored_bytes_is_an_upper_bound(ids: list[int], user: int):
    key = stored_timeline_key(LONGEST_PREFIX, b"s" * 16, timeline_key(user, "0" * 16, include_seen=True))
    snapshot = replace(make(np.array(ids, np.int64)), model_version=LONGEST_VERSION)
    assert len(key) + len(encode_timeline(key, snapshot)) <= stored_bytes(snapshot.post_ids)


@given(id_lists, st.integers(0, 1000))
def test_posts_that_fit_returns_the_largest_number_of_posts_that_fit(ids: list[int], max_bytes: int):
    posts = np.array(ids, np.int64)
    count = posts_that_fit(posts, max_bytes)
    assert count == 0 or stored_bytes(posts[:count]) <= max_bytes
    if count < len(posts):
        assert stored_bytes(posts) > max_bytes


@pytest.mark.failure(22)
@given(keys, snapshots(), st.data())
def test_a_damaged_timeline_is_refused(key: bytes, snapshot: RankedTimeline, data: st.DataObject):
    for value in damaged(encode_timeline(key, snapshot), data):
        with pytest.raises(UnreadableValue):
            decode_timeline(value, key, snapshot.timeline_id)


@given(keys, keys, snapshots())
def test_a_timeline_of_another_key_is_refused(key: bytes, other: bytes, snapshot: RankedTimeline):
    assume(key != other)
    with pytest.raises(UnreadableValue):
        decode_timeline(encode_timeline(other, snapshot), key, snapshot.timeline_id)


@given(st.binary(max_size=200), keys, snapshot_ids)
def test_bytes_in_another_format_are_neither_a_timeline_nor_a_pointer(
    value: bytes, key: bytes, timeline_id: bytes
):
    with pytest.raises(UnreadableValue):
        decode_timeline(value, key, timeline_id)
    with pytest.raises(UnreadableValue):
        decode_pointer(value, key)


@given(keys, snapshots())
def test_a_timeline_is_not_decoded_as_a_pointer_nor_a_pointer_as_a_timeline(
    key: bytes, snapshot: RankedTimeline
):
    with pytest.raises(UnreadableValue):
        decode_pointer(encode_timeline(key, snapshot), key)
    with pytest.raises(UnreadableValue):
        decode_timeline(
            encode_pointer(key, LatestPointer(snapshot.timeline_id, 0.0)), key, snapshot.timeline_id
        )


def test_an_inconsistent_timeline_with_a_valid_checksum_is_refused():
    body = bytearray(encode_timeline(b"k", make(np.arange(3)))[:-4])
    for place, nonsense in ((12, 99), (13, 99), (14, 0), (14, 1), (15, 200)):
        forged = bytearray(body)
        forged[place] = nonsense
        with pytest.raises(UnreadableValue):
            decode_timeline(sealed(forged), b"k", b"s" * 16)


def test_an_invalid_model_version_is_refused_when_it_is_stored():
    with pytest.raises(ValueError, match="version"):
        encode_timeline(b"k", replace(make(np.arange(3)), model_version="v" * 256))


@given(keys, snapshot_ids, times)
def test_a_decoded_pointer_equals_the_encoded_one(key: bytes, timeline_id: bytes, made_at: float):
    pointer = LatestPointer(timeline_id, made_at)
    assert decode_pointer(encode_pointer(key, pointer), key) == pointer


@given(keys, snapshot_ids, st.data())
def test_a_damaged_pointer_is_refused(key: bytes, timeline_id: bytes, data: st.DataObject):
    for value in damaged(encode_pointer(key, LatestPointer(timeline_id, 1.0)), data):
        with pytest.raises(UnreadableValue):
            decode_pointer(value, key)


@given(keys, keys, snapshot_ids)
def test_a_pointer_of_another_key_is_refused(key: bytes, other: bytes, timeline_id: bytes):
    assume(key != other)
    with pytest.raises(UnreadableValue):
        decode_pointer(encode_pointer(other, LatestPointer(timeline_id, 1.0)), key)


@given(keys, id_lists)
def test_the_posts_of_a_generation_take_as_few_bytes_as_the_ids_of_a_timeline(key: bytes, ids: list[int]):
    posts = np.array(sorted(ids), np.int64)
    value = encode_posts(key, posts)
    found = decode_posts(value, key)
    assert (found.dtype, found.tolist()) == (posts.dtype, posts.tolist())
    is_narrow = not ids or max(ids) - min(ids) < 2**32
    assert len(value) - len(encode_posts(key, posts[:0])) == len(ids) * (4 if is_narrow else 8)


@given(keys, id_lists, st.data())
def test_damaged_posts_of_a_generation_are_refused(key: bytes, ids: list[int], data: st.DataObject):
    for value in damaged(encode_posts(key, np.array(ids, np.int64)), data):
        with pytest.raises(UnreadableValue):
            decode_posts(value, key)


@given(keys, keys, id_lists)
def test_the_posts_of_another_generation_are_refused(key: bytes, other: bytes, ids: list[int]):
    assume(key != other)
    with pytest.raises(UnreadableValue):
        decode_posts(encode_posts(other, np.array(ids, np.int64)), key)


def test_inconsistent_posts_of_a_generation_with_a_valid_checksum_are_refused():
    body = bytearray(encode_posts(b"k", np.arange(3))[:-4])
    for width in (0, 1, 5, 8):
        body[12] = width
        with pytest.raises(UnreadableValue):
            decode_posts(sealed(body), b"k")


def make(ids: np.ndarray) -> RankedTimeline:
    scores = np.linspace(1, 0, len(ids), dtype=np.float32)
    return RankedTimeline(b"s" * 16, ids, scores, RankerName.NEUCF, "v1", 10.0, 20.0, 5.0)


def sealed(body: bytearray) -> bytes:
    return bytes(body) + zlib.crc32(body).to_bytes(4, "little")
