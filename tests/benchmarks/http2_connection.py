"""A client's HTTP/2 connection, as cheap as Python allows: one constant header block."""

import socket
import struct
import time
from collections import deque
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Protocol

from animora_client.overload import AdaptiveThrottle
from tests.support.http2 import (
    ACK,
    CANCEL,
    DATA,
    END_HEADERS,
    END_STREAM,
    FIRST_DYNAMIC_INDEX,
    HEADERS,
    MAX_CONCURRENT_STREAMS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    indexed_header,
    plain_header,
    settings_frame,
)

DEFAULT_WINDOW = 65_535
OWN_WINDOW = 2**31 - 1
READ = 1 << 18


class Outcome(IntEnum):
    """What became of a call."""

    UNFINISHED = 0  # neither an answer nor its deadline came before the run ended
    ANSWERED = 1  # with the recorded reply
    OTHER_REPLY = 2  # OK, with another reply than the recorded one: by the heuristic
    REFUSED = 3  # with a status and no message
    RESET = 4  # the server reset the stream
    EXPIRED = 5  # the deadline passed after it had been sent
    UNSENT = 6  # the deadline passed while it waited for a stream
    LOST = 7  # the connection was closed
    HELD_BACK = 8  # by the client's throttle


ACCEPTED = (Outcome.ANSWERED, Outcome.OTHER_REPLY)


class Ledger(Protocol):
    """The calls of all connections, by number.

    Attributes:
        deadlines: Times on the clock of `time.perf_counter`.
        streams: The streams of the calls that were sent and have not ended.
        bodies: Framed messages; call n sends the one at n modulo their number.
    """

    deadlines: list[float]
    streams: dict[int, int]
    bodies: list[bytes]

    def outcome_of(self, call: int, reply: bytearray | None) -> Outcome:
        """The outcome of a call whose stream has ended with this reply."""
        ...

    def end(self, call: int, outcome: Outcome, now: float) -> None:
        """Records the end of a call."""
        ...


class Headers:
    """The header block of each call of a connection: the first fills HPACK's dynamic table."""

    def __init__(self, path: str, authority: str, metadata: Sequence[tuple[str, str]]) -> None:
        fields = [
            (":path", path),
            (":authority", authority),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            *metadata,
        ]
        method_and_scheme = bytes([0x83, 0x86])
        self.first = method_and_scheme + b"".join(indexed_header(*field) for field in fields)
        oldest = FIRST_DYNAMIC_INDEX + len(fields) - 1  # the newest entry comes first
        self.later = method_and_scheme + bytes([0x80 | (oldest - n) for n in range(len(fields))])

    @staticmethod
    def with_timeout(block: bytes, seconds: float) -> bytes:
        left = max(round(seconds * 1e3), 1)
        return block + plain_header("grpc-timeout", f"{left}m")


class Connection:
    """One HTTP/2 connection to a port of this machine.

    Attributes:
        is_open: Whether calls can be sent.
        waiting: Calls that wait for a stream or for flow control.
        out: Bytes that the socket has not taken.
    """

    def __init__(
        self, port: int, ledger: Ledger, headers: Headers, throttle: AdaptiveThrottle | None
    ) -> None:
        self._ledger, self._headers, self._throttle = ledger, headers, throttle
        self._next_stream = 1
        self._max_streams = 2**31
        self._window = DEFAULT_WINDOW
        self.is_open = True
        self.calls: dict[int, int] = {}  # by stream
        self.waiting: deque[int] = deque()
        self._replies: dict[int, bytearray] = {}
        self._in = bytearray()
        self.out = bytearray(
            PREFACE
            + settings_frame(initial_window_size=OWN_WINDOW)
            + frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", OWN_WINDOW - DEFAULT_WINDOW))
        )
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)

    def add(self, call: int, now: float) -> None:
        """Adds a call that is due."""
        if not self.is_open:
            self._ledger.end(call, Outcome.LOST, now)
        elif self._throttle is not None and self._throttle.holds_back():
            self._ledger.end(call, Outcome.HELD_BACK, now)
        else:
            self.waiting.append(call)

    def expire(self, call: int, now: float) -> None:
        """Ends a call whose deadline has passed; resets its stream if it was sent."""
        stream = self._ledger.streams.get(call)
        if stream is None:
            self.waiting.remove(call)
            self._ledger.end(call, Outcome.UNSENT, now)
            return
        self.out += frame(RST_STREAM, 0, stream, struct.pack(">I", CANCEL))
        del self.calls[stream]
        self._replies.pop(stream, None)
        self._ledger.end(call, Outcome.EXPIRED, now)

    def send_waiting(self, now: float) -> None:
        """Sends the calls that wait, as far as streams and flow control allow."""
        ledger = self._ledger
        while self.waiting and len(self.calls) < self._max_streams:
            call = self.waiting[0]
            left = ledger.deadlines[call] - now
            if left <= 0.0005:
                self.waiting.popleft()
                ledger.end(call, Outcome.UNSENT, now)
                continue
            message = ledger.bodies[call % len(ledger.bodies)]
            if len(message) > self._window:
                return
            self.waiting.popleft()
            self._window -= len(message)
            stream = self._next_stream
            self._next_stream += 2
            block = self._headers.later if stream > 1 else self._headers.first
            self.out += frame(HEADERS, END_HEADERS, stream, self._headers.with_timeout(block, left))
            self.out += frame(DATA, END_STREAM, stream, message)
            self.calls[stream] = call
            ledger.streams[call] = stream

    def flush(self) -> None:
        """Writes what the socket takes."""
        if self.out and self.is_open:
            try:
                del self.out[: self.socket.send(self.out)]
            except BlockingIOError:
                pass
            except OSError:
                self._close()

    def receive(self) -> None:
        """Reads and handles what has arrived."""
        try:
            data = self.socket.recv(READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close()
            return
        self._in += data
        buffer, position, end = self._in, 0, len(self._in)
        now = time.perf_counter()
        while end - position >= 9:
            length = int.from_bytes(buffer[position : position + 3])
            if end - position < 9 + length:
                break
            kind, flags = buffer[position + 3], buffer[position + 4]
            stream = int.from_bytes(buffer[position + 5 : position + 9]) & 0x7FFFFFFF
            self._handle(kind, flags, stream, buffer[position + 9 : position + 9 + length], now)
            position += 9 + length
        del buffer[:position]

    def _handle(self, kind: int, flags: int, stream: int, payload: bytearray, now: float) -> None:
        if kind == DATA:
            if stream in self.calls:
                self._replies.setdefault(stream, bytearray()).extend(payload)
        elif kind == HEADERS:
            if flags & END_STREAM and stream in self.calls:
                call, reply = self.calls.pop(stream), self._replies.pop(stream, None)
                self._end(call, self._ledger.outcome_of(call, reply), now)
        elif kind == RST_STREAM:
            if stream in self.calls:
                self._replies.pop(stream, None)
                self._end(self.calls.pop(stream), Outcome.RESET, now)
        elif kind == SETTINGS and not flags & ACK:
            for key, value in struct.iter_unpack(">HI", payload):
                if key == MAX_CONCURRENT_STREAMS:
                    self._max_streams = value
            self.out += frame(SETTINGS, ACK, 0)
        elif kind == PING and not flags & ACK:
            self.out += frame(PING, ACK, 0, bytes(payload))
        elif kind == WINDOW_UPDATE and stream == 0:
            self._window += int.from_bytes(payload)

    def _end(self, call: int, outcome: Outcome, now: float) -> None:
        if self._throttle is not None:
            self._throttle.record(accepted=outcome in ACCEPTED)
        self._ledger.end(call, outcome, now)

    def _close(self) -> None:
        self.is_open = False
        now = time.perf_counter()
        for call in (*self.calls.values(), *self.waiting):
            self._ledger.end(call, Outcome.LOST, now)
        self.calls.clear()
        self.waiting.clear()


def flush(connections: Iterable[Connection]) -> None:
    """Sends what waits, as far as it can be sent now."""
    now = time.perf_counter()
    for connection in connections:
        connection.send_waiting(now)
        connection.flush()
