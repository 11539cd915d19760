"""Bytes-typed variants of messages: the same bytes on the wire as the public messages."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from animora_proto.ranking.v1 import ranking_pb2 as pb
from animora_server.errors import InvalidRequest
from animora_server.service.wire_codec import (
    BatchRankRequest,
    BatchRankResponse,
    BytesField,
    RankRequest,
    RankResponse,
    RankResult,
    pack,
    parse,
    read_elements,
    read_ids,
    write_array,
)

IDS = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20)


def one_by_one(number: int, ids: list[int]) -> bytes:
    """Ids under a field's number, each with a tag."""
    return b"".join(bytes([number << 3 | 1]) + np.int64(an_id).tobytes() for an_id in ids)


@given(IDS, IDS)
def test_a_request_is_read_as_it_was_sent(candidates, excluded):
    public = pb.RankRequest(user_id=7, post_ids=candidates, exclude_post_ids=excluded, limit=3)
    variant = parse(public.SerializeToString(), RankRequest, pb.RankRequest)
    assert isinstance(variant, RankRequest)
    assert (variant.user_id, variant.limit) == (7, 3)
    for field, ids in ((variant.post_ids, candidates), (variant.exclude_post_ids, excluded)):
        assert read_ids(field).tolist() == ids
        assert read_ids(field).dtype == np.int64


@given(IDS, st.lists(st.floats(width=32, allow_nan=False), max_size=20))
def test_a_response_has_the_bytes_of_the_public_message(ids, scores):
    variant = RankResponse(model_version="v1")
    write_array(variant.post_ids, np.array(ids, np.int64))
    write_array(variant.scores, np.array(scores, np.float32))
    public = pb.RankResponse(post_ids=ids, scores=scores, model_version="v1")
    assert variant.SerializeToString(deterministic=True) == public.SerializeToString(deterministic=True)


def test_ids_in_several_chunks_are_one_list():
    chunks = [pb.RankRequest(post_ids=ids).SerializeToString() for ids in ([1, 2], [3])]
    for sent, ids in ((b"".join(chunks), [1, 2, 3]), (b"\x12\x00" + chunks[1], [3])):
        request = parse(sent, RankRequest, pb.RankRequest)
        assert read_ids(request.post_ids).tolist() == ids


def test_unpacked_ids_are_one_list():
    sent = pb.RankRequest(post_ids=[1]).SerializeToString() + one_by_one(2, [2, 3])
    request = parse(sent, RankRequest, pb.RankRequest)
    assert read_ids(request.post_ids).tolist() == [1, 2, 3]


@pytest.mark.parametrize("chunk", [b"\x12\x00", b"\x12\x08" + bytes(8), one_by_one(2, [0])])
def test_ids_in_many_chunks_are_parsed_by_protobuf(chunk):
    request = parse(chunk * 1000, RankRequest, pb.RankRequest)
    assert isinstance(request, pb.RankRequest)  # not the variant, whose chunks Python would read
    assert len(request.post_ids) in {0, 1000}


@given(
    IDS, st.lists(st.sampled_from([b"\x78\x0a", b"\x0a\x00", b"\x12\x00", one_by_one(2, [5])]), max_size=6)
)
def test_a_request_with_unknown_or_repeated_fields_is_read_as_the_public_message(ids, others):
    sent = b"".join(others) + pb.RankRequest(user_id=3, post_ids=ids).SerializeToString()
    request, public = parse(sent, RankRequest, pb.RankRequest), pb.RankRequest.FromString(sent)
    assert read_ids(request.post_ids).tolist() == list(public.post_ids)
    assert request.user_id == public.user_id


def test_bytes_in_another_format_are_malformed():
    for data in (b"\xff", b"\x12\x08short"):
        with pytest.raises(InvalidRequest, match="not a valid message"):
            parse(data, RankRequest, pb.RankRequest)


def test_a_partial_id_is_malformed():
    with pytest.raises(InvalidRequest, match="not a valid message"):
        read_ids(b"123456781234567")


@given(st.lists(st.binary(max_size=300), max_size=6), st.lists(st.integers(0, 2**64 - 1), max_size=3))
def test_elements_are_read_among_unknown_fields(several, numbers):
    def varint(number: int) -> bytes:
        low, rest = number & 0x7F, number >> 7
        return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])

    others = b"".join(
        b"\x10" + varint(number) + b"\x19" + bytes(8) + b"\x22\x02\x0a\x0a" + b"\x2d" + bytes(4)
        for number in numbers
    )
    data = others + b"".join(b"\x0a" + varint(len(element)) + element for element in several)
    assert list(read_elements(data, BatchRankRequest, "requests")) == several


@pytest.mark.parametrize(
    "data",
    [
        b"\x0b" + b"\x0a\x00" * 3,  # a group without an end
        b"\x10" + b"\x80" * 1_000_000 + b"\x0a\x00" * 3,  # a number without an end
        b"\x0a\x00\x22\x02\x0a\x0a\x10\x80",  # a number that is cut off
    ],
)
def test_truncated_fields_are_malformed(data):
    with pytest.raises(InvalidRequest, match="not a valid message"):
        read_elements(data, BatchRankRequest, "requests")


@given(st.lists(IDS, max_size=4), st.lists(st.floats(width=32, allow_nan=False), max_size=300))
def test_concatenated_fields_equal_the_public_message(lists, scores):
    results = [pb.RankResult(response=pb.RankResponse(post_ids=ids, scores=scores)) for ids in lists]

    def encoded(variant, field: str, data: bytes) -> bytes:
        return BytesField(variant, field).prefix(len(data)) + data

    responses = [
        encoded(RankResponse, "post_ids", pack(np.array(ids, np.int64)))
        + encoded(RankResponse, "scores", pack(np.array(scores, np.float32)))
        for ids in lists
    ]
    chunks = [
        encoded(BatchRankResponse, "results", encoded(RankResult, "response", one)) for one in responses
    ]
    assert pb.BatchRankResponse.FromString(b"".join(chunks)) == pb.BatchRankResponse(results=results)
