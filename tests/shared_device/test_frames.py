import asyncio
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from animora_server.errors import ProtocolError
from animora_server.shared_device import frames
from animora_server.shared_device.frames import (
    FrameKind,
    doubles,
    floats,
    from_bytes,
    halves,
    integers,
    read_frame,
    text,
    to_bytes,
)

LENGTH = 4  # bytes of a frame's own length
SCORE = to_bytes(FrameKind.SCORE, 7, np.arange(3), np.array([0.5]), np.ones(2, np.float32), "ü")


async def read(content: bytes):
    reader = asyncio.StreamReader()
    reader.feed_data(content)
    reader.feed_eof()
    return await read_frame(reader)


async def test_a_frame_arrives_as_it_was_sent():
    frame = await read(SCORE)
    assert frame is not None
    assert (frame.kind, frame.call) == (FrameKind.SCORE, 7)
    numbers, times, scores, name = frame.parts
    assert integers(numbers, 3).tolist() == [0, 1, 2]
    assert doubles(times, 1).tolist() == [0.5]
    assert floats(scores).tolist() == [1, 1]
    assert text(name) == "ü"


def test_embeddings_keep_their_number_of_rows_even_with_width_0():
    image = np.arange(6, dtype=np.float16).reshape(3, 2)
    frame = from_bytes(bytearray(to_bytes(FrameKind.ENCODE, 1, image, image[:, :0])[LENGTH:]))
    assert np.array_equal(halves(frame.parts[0], 3), image)
    assert halves(frame.parts[1], 3).shape == (3, 0)


def test_arrays_of_a_frame_are_writable():
    frame = from_bytes(bytearray(SCORE[LENGTH:]))
    floats(frame.parts[2])[0] = 5


async def test_the_end_of_a_connection_between_frames_is_no_error():
    assert await read(b"") is None


@pytest.mark.parametrize("kept", range(1, len(SCORE)))
async def test_a_truncated_frame_is_a_protocol_error(kept):
    with pytest.raises(ProtocolError):
        await read(SCORE[:kept])


async def test_a_frame_that_announces_too_many_bytes_is_not_read():
    reader = asyncio.StreamReader()
    reader.feed_data(struct.pack("<I", frames.MAX_FRAME_BYTES + 1))  # reading the content would block
    with pytest.raises(ProtocolError, match="too many"):
        await read_frame(reader)


def test_a_frame_that_would_be_too_long_is_not_sent(monkeypatch):
    monkeypatch.setattr(frames, "MAX_FRAME_BYTES", 100)
    with pytest.raises(ProtocolError, match="too many"):
        to_bytes(FrameKind.SCORE, 1, np.zeros(100))


@given(st.binary(max_size=64))
def test_any_bytes_are_a_frame_or_a_protocol_error(content):
    try:
        frame = from_bytes(bytearray(content))
    except ProtocolError:
        return
    assert frame.kind in FrameKind


@pytest.mark.parametrize(
    "read_part",
    [
        lambda: integers(b"1234567"),
        lambda: integers(b"12345678", 2),
        lambda: doubles(b"1234", 1),
        lambda: floats(b"12345"),
        lambda: halves(b"123456", 2),
        lambda: halves(b"", 0),
        lambda: text(b"\xff"),
    ],
)
def test_a_part_of_another_type_or_size_is_a_protocol_error(read_part):
    with pytest.raises(ProtocolError):
        read_part()
