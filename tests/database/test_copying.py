import threading

import pytest

from animora_database.copy_format import SIGNATURE, TRAILER
from animora_database.copying import PART_BYTES, CopyDecoder, copy_rows
from animora_database.errors import UnusableView
from animora_database.views import USER_IDS


class Decoder:
    """Decodes bytes in rows of ten, or fails."""

    query = USER_IDS

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

    def finish(self, rest):
        if rest != TRAILER:
            raise UnusableView("incomplete")


async def test_bytes_are_decoded_in_order_in_a_thread():
    decoder = Decoder()
    parts = CopyDecoder(decoder)
    rows = bytes(range(250)) * (PART_BYTES // 100)
    for start in range(0, len(rows), 99_999):
        await parts.put((SIGNATURE if start == 0 else b"") + rows[start : start + 99_999])
    await parts.put(TRAILER)

    await parts.finish()

    assert decoder.taken == rows
    assert threading.main_thread() not in decoder.threads


async def test_an_incomplete_last_row_is_an_error():
    parts = CopyDecoder(Decoder())
    await parts.put(SIGNATURE + b"12345")

    with pytest.raises(UnusableView):
        await parts.finish()


async def test_an_error_of_the_decoder_is_raised_with_the_next_part():
    parts = CopyDecoder(Decoder(failure=UnusableView("a null")))
    await parts.put(SIGNATURE + bytes(PART_BYTES))

    with pytest.raises(UnusableView, match="a null"):
        await parts.put(bytes(PART_BYTES))


async def test_waiting_for_the_thread_ignores_its_error():
    let_go = threading.Event()
    ended = []

    class LateDecoder(Decoder):
        def feed(self, data):
            let_go.wait(10)  # bounded, since the interpreter waits for the thread
            ended.append(data)
            raise UnusableView("too late to matter")

    parts = CopyDecoder(LateDecoder())
    await parts.put(SIGNATURE + bytes(PART_BYTES))
    let_go.set()

    await parts.wait_for_thread()

    assert len(ended) == 1


async def test_a_connection_is_closed_if_its_rows_cannot_be_decoded(database):
    with pytest.raises(UnusableView, match="a null"):
        await copy_rows(database, Decoder(failure=UnusableView("a null")))

    assert database.is_closed()
