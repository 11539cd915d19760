"""An HTTP/2 client that opens streams with a flow-control window of zero."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.http2 import (
    HEADERS,
    PREFACE,
    header_block,
    header_frames,
    message_frame,
    settings_frame,
)


@asynccontextmanager
async def unread_streams(
    port: int, path: str, message: bytes, count: int, **metadata: str
) -> AsyncIterator[None]:
    """Calls a gRPC method `count` times over one connection whose streams have a window of zero.

    Args:
        port: The port of the server, on loopback.
        path: The path of the method.
        message: The serialised request.
        count: How many calls; the block starts when the server has sent the headers of every response.
        metadata: Sent in Latin-1; may hold what gRPC's own clients refuse to send.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(PREFACE + settings_frame(initial_window_size=0))
        for number in range(count):
            stream = 2 * number + 1
            writer.write(header_frames(stream, header_block(path, metadata)))
            writer.write(message_frame(stream, message))
        await writer.drain()
        answered = 0
        while answered < count:
            length, kind = struct.unpack(">IB", b"\0" + await reader.readexactly(4))
            await reader.readexactly(5 + length)
            answered += kind == HEADERS
        yield
    finally:
        writer.close()
        await writer.wait_closed()
