import asyncio
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from animora_artifact import ArtifactRejected, VersionNotFound
from animora_artifact.errors import RejectionReason
from animora_server.errors import DeviceFault, NetworkFailed, OutOfDeviceMemory, ProtocolError
from animora_server.shared_device.messages import (
    ANSWERS,
    CALLS,
    MAX_BYTES,
    decode_message,
    describe_error,
    encode_message,
    read_message,
    restore_error,
)

LENGTH = 4  # bytes of a message's own length
SCORE = encode_message(CALLS, "score", 7, 3, 0.5, np.array([5]), np.array([3]), np.arange(3))
ERROR = encode_message(ANSWERS, "error", 7, 0, "DeviceFault", "ü")


async def read(layouts, content):
    reader = asyncio.StreamReader()
    reader.feed_data(content)
    reader.feed_eof()
    return await read_message(layouts, reader)


async def test_a_call_arrives_as_it_was_sent():
    name, call, target, (deadline, *arrays) = await read(CALLS, SCORE)
    assert (name, call, target, deadline) == ("score", 7, 3, 0.5)
    assert [array.tolist() for array in arrays] == [[5], [3], [0, 1, 2]]
    assert {array.dtype for array in arrays} == {np.dtype(np.int64)}


async def test_an_answer_arrives_as_it_was_sent():
    logits = np.array([[1, 2], [3, 4]], np.float32)[:, 0]  # not contiguous
    message = await read(ANSWERS, encode_message(ANSWERS, "score", 1, 0, logits))
    assert message.values[0].tolist() == [1, 3]
    assert (await read(ANSWERS, ERROR)).values == ["DeviceFault", "ü"]


def test_embeddings_may_be_absent():
    image = np.arange(6, dtype=np.float16).reshape(3, 2)
    call = encode_message(CALLS, "encode", 1, 2, 5, np.arange(3), image, image[:, :0])
    first, _, images, captions = decode_message(CALLS, bytearray(call[LENGTH:])).values
    assert (first, images.tolist(), captions.tolist()) == (5, [0, 1, 2, 3, 4, 5], [])


def test_arrays_of_a_message_are_aligned_and_writable():
    for array in decode_message(CALLS, bytearray(SCORE[LENGTH:])).values[1:]:
        assert array.flags.aligned
        array[0] = 5


async def test_the_end_of_a_connection_between_messages_is_no_error():
    assert await read(CALLS, b"") is None


@pytest.mark.parametrize("kept", range(1, len(SCORE)))
async def test_a_truncated_message_is_refused(kept):
    with pytest.raises(ProtocolError):
        await read(CALLS, SCORE[:kept])


async def test_a_message_that_announces_too_many_bytes_is_refused_before_it_is_read():
    reader = asyncio.StreamReader()
    reader.feed_data(struct.pack("<I", MAX_BYTES + 1))  # reading the content would block
    with pytest.raises(ProtocolError, match="too many"):
        await read_message(CALLS, reader)


def test_a_message_that_would_be_too_long_is_not_sent():
    with pytest.raises(ProtocolError, match="too many"):
        encode_message(CALLS, "warm", 1, 2, np.zeros(MAX_BYTES // 8, np.int64))


@given(st.sampled_from(["", "other", "error", *CALLS]), st.binary(max_size=64))
def test_any_bytes_are_a_message_or_are_refused(name, content):
    try:
        message = decode_message(CALLS, bytearray(name.encode().ljust(8, b"\0") + content))
    except ProtocolError:
        return
    assert message.name in CALLS


@pytest.mark.parametrize(
    "content",
    [
        SCORE[LENGTH:] + b"\0",
        b"other\0\0\0" + SCORE[LENGTH + 8 :],
        ERROR[LENGTH:],  # an answer is no call
        encode_message(CALLS, "load", 1, 0, "v1")[LENGTH:-2] + b"\xff\xff",
    ],
    ids=["longer than its values", "unknown name", "an answer", "not UTF-8"],
)
def test_a_message_that_is_no_call_is_refused(content):
    with pytest.raises(ProtocolError):
        decode_message(CALLS, bytearray(content))


@pytest.mark.parametrize(
    "error",
    [
        DeviceFault("gone"),
        OutOfDeviceMemory("full"),
        NetworkFailed("raised"),
        VersionNotFound("v1"),
        ValueError("odd"),
    ],
    ids=repr,
)
def test_an_error_keeps_its_type_and_text_or_becomes_a_runtime_error(error):
    restored = restore_error(*describe_error(error))
    if isinstance(error, ValueError):
        assert (type(restored), str(restored)) == (RuntimeError, "ValueError: odd")
    else:
        assert (type(restored), str(restored)) == (type(error), str(error))


def test_a_rejection_keeps_its_reason():
    restored = restore_error(*describe_error(ArtifactRejected(RejectionReason.DIGEST, "model.ts")))
    assert isinstance(restored, ArtifactRejected)
    assert (restored.reason, restored.detail) == (RejectionReason.DIGEST, "model.ts")
