"""An HTTP/2 client that opens streams with a flow-control window of zero."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS = 0, 1, 4  # types of frames
END_STREAM, END_HEADERS = 1, 4  # flags
INITIAL_WINDOW_SIZE = 4  # a setting


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
        writer.write(PREFACE + _frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, 0)))
        for number in range(count):
            stream = 2 * number + 1
            writer.write(_frame(HEADERS, END_HEADERS, stream, _header_block(path, metadata)))
            writer.write(_frame(DATA, END_STREAM, stream, struct.pack(">BI", 0, len(message)) + message))
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


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _header_block(path: str, metadata: dict[str, str]) -> bytes:
    """The headers of a gRPC call in HPACK, as literals without indexing."""
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
        **metadata,
    }
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in headers.items())


def _text(text: str) -> bytes:
    return bytes([len(text)]) + text.encode("latin-1")
