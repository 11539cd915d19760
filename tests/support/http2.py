"""HTTP/2 frames written by hand, and connections that send them: what no well-behaved client sends."""

import socket
import ssl
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from tests.support.until import HANG_TIMEOUT

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# Types of frames.
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
ACK, END_STREAM, END_HEADERS = 1, 1, 4  # flags
MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 3, 4  # settings
CANCEL, REFUSED_STREAM = 8, 7  # codes of errors
MAX_FRAME = 16_384  # bytes of a payload, unless the peer allows more
FIRST_DYNAMIC_INDEX = 62  # of HPACK's table
_FRAME_HEAD = struct.Struct(">HBBBI")  # length (24 bits), type, flags, stream


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    length = len(payload)
    return _FRAME_HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream) + payload


def settings_frame(**values: int) -> bytes:
    """A SETTINGS frame; the names are those of the constants."""
    numbers = {"max_concurrent_streams": MAX_CONCURRENT_STREAMS, "initial_window_size": INITIAL_WINDOW_SIZE}
    return frame(
        SETTINGS, 0, 0, b"".join(struct.pack(">HI", numbers[name], value) for name, value in values.items())
    )


def header_frames(stream: int, block: bytes, *, is_complete: bool = True) -> bytes:
    """HEADERS, and CONTINUATION for what does not fit. Without `is_complete` the block stays open."""
    parts = [block[start : start + MAX_FRAME] for start in range(0, max(1, len(block)), MAX_FRAME)]
    return b"".join(
        frame(
            CONTINUATION if number else HEADERS,
            END_HEADERS if is_complete and number == len(parts) - 1 else 0,
            stream,
            part,
        )
        for number, part in enumerate(parts)
    )


def header_block(path: str, metadata: Mapping[str, str] | None = None) -> bytes:
    """The headers of a gRPC call in HPACK, as literals without indexing."""
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
        **(metadata or {}),
    }
    return b"".join(plain_header(name, value) for name, value in headers.items())


def plain_header(name: str, value: str) -> bytes:
    """A header as a literal that stays out of HPACK's table."""
    return b"\0" + text(name) + text(value)


def indexed_header(name: str, value: str) -> bytes:
    """A header as a literal that enters HPACK's table, at FIRST_DYNAMIC_INDEX if it is the newest."""
    return b"\x40" + text(name) + text(value)


def text(value: str) -> bytes:
    """A string in HPACK, not compressed, in Latin-1."""
    encoded = value.encode("latin-1")
    return _length(len(encoded)) + encoded


def message_frame(stream: int, message: bytes) -> bytes:
    """The only message of a gRPC call."""
    return frame(DATA, END_STREAM, stream, grpc_message(message))


def grpc_message(message: bytes) -> bytes:
    """A message with gRPC's prefix, not compressed."""
    return struct.pack(">BI", 0, len(message)) + message


class Http2Connection:
    """A blocking connection that sends bytes as they are."""

    def __init__(self, connected: socket.socket, timeout: float) -> None:
        self._socket = connected
        self._timeout = timeout

    def send(self, data: bytes) -> bool:
        """Sends bytes. Returns False once the server has closed the connection, or no longer reads."""
        try:
            self._socket.sendall(data)
        except OSError:
            return False
        return True

    def acknowledge_settings(self) -> None:
        """Acknowledges the server's settings; only then it holds the client to the size of headers."""
        self.send(frame(SETTINGS, ACK, 0))

    def discard(self) -> None:
        """Reads and drops what has arrived, so that the server can go on sending."""
        self._socket.setblocking(False)
        with suppress(OSError):
            while self._socket.recv(65_536):
                pass
        self._socket.settimeout(self._timeout)

    def frames(self) -> Iterator[tuple[int, int, bytes]]:
        """The type, stream and payload of each frame until the server closes the connection."""
        with suppress(ConnectionError), self._socket.makefile("rb") as stream:
            while len(head := stream.read(9)) == 9:
                length, kind = struct.unpack(">IB", b"\0" + head[:4])
                yield kind, struct.unpack(">I", head[5:])[0], stream.read(length)

    def wait_until_closed(self) -> None:
        """Reads until the server closes the connection."""
        for _ in self.frames():
            pass


@contextmanager
def http2_connection(
    port: int,
    first: bytes = PREFACE + frame(SETTINGS, 0, 0),
    tls: ssl.SSLContext | None = None,
    timeout: float = HANG_TIMEOUT,
) -> Iterator[Http2Connection]:
    """Connects to a port on loopback, and sends the first bytes.

    Args:
        port: The port.
        first: The first bytes.
        tls: None for plaintext.
        timeout: Seconds to send or to receive.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with plain if tls is None else tls.wrap_socket(plain, server_hostname="127.0.0.1") as connected:
            connection = Http2Connection(connected, timeout)
            connection.send(first)
            yield connection


def _length(number: int) -> bytes:
    """A length in HPACK: an integer with a prefix of seven bits."""
    if number < 127:
        return bytes([number])
    encoded, number = bytearray([127]), number - 127
    while number >= 128:
        encoded.append(number % 128 | 128)
        number //= 128
    return bytes([*encoded, number])
