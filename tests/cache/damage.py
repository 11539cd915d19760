"""Damages encoded values."""

from collections.abc import Iterator

from hypothesis import strategies as st


def damaged(value: bytes, data: st.DataObject) -> Iterator[bytes]:
    """The value with a byte flipped, with bytes behind it, and truncated to each length."""
    flipped = bytearray(value)
    flipped[data.draw(st.integers(0, len(value) - 1))] ^= data.draw(st.integers(1, 255))
    yield bytes(flipped)
    yield value + data.draw(st.binary(min_size=1, max_size=20))
    for end in range(len(value)):
        yield value[:end]
