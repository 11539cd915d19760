import struct
import threading

import pytest

from animora_server.errors import StoreError
from animora_server.store.binary import TRAILER
from animora_server.store.copy_decoder import PART_BYTES, CopyDecoder

HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">II", 0, 0)


class Decoder:
    """Decodes bytes in rows of ten, or fails."""

    def __init__(self, failure=None):
        self.taken = b""
        self.threads = set()
        self._failure = failure

    def feed(self, data):
        self.threads.add(threading.current_thread())
        if self._failure is not None:
            raise self._failure
        whole = len(data) // 10 * 10
        self.taken += data[:whole]
        return data[whole:]


async def test_bytes_are_decoded_in_order_in_a_thread():
    decoder = Decoder()
    parts = CopyDecoder(decoder.feed)
    rows = bytes(range(250)) * (PART_BYTES // 100)
    for start in range(0, len(rows), 99_999):
        await parts.put((HEADER if start == 0 else b"") + rows[start : start + 99_999])
    await parts.put(TRAILER)

    await parts.finish()

    assert decoder.taken == rows
    assert threading.main_thread() not in decoder.threads


async def test_an_incomplete_last_row_is_an_error():
    parts = CopyDecoder(Decoder().feed)
    await parts.put(HEADER + b"12345")

    with pytest.raises(StoreError):
        await parts.finish()


async def test_an_error_of_the_decoder_is_raised_with_the_next_part():
    parts = CopyDecoder(Decoder(failure=StoreError("a null")).feed)
    await parts.put(HEADER + bytes(PART_BYTES))

    with pytest.raises(StoreError, match="a null"):
        await parts.put(bytes(PART_BYTES))


async def test_waiting_for_the_thread_ignores_its_error():
    let_go = threading.Event()
    ended = []

    def feed(data):
        let_go.wait(10)  # not for ever: the interpreter waits for the thread at its end
        ended.append(data)
        raise StoreError("too late to matter")

    parts = CopyDecoder(feed)
    await parts.put(HEADER + bytes(PART_BYTES))
    let_go.set()

    await parts.wait_for_thread()

    assert len(ended) == 1
