"""Writes log lines without blocking: a reader that stalls must not block the server."""

import io
import logging
import os
import select
from typing import TextIO

CHUNK_BYTES = select.PIPE_BUF  # a writable pipe takes this many bytes without blocking
WRITE_TIMEOUT = 50  # milliseconds, for a slow reader


def handler_for(stream: TextIO) -> logging.Handler:
    """A handler for a stream; non-blocking if the stream has a file descriptor."""
    try:
        return DroppingHandler(os.dup(stream.fileno()))  # a duplicate, since descriptor 2 may be redirected
    except io.UnsupportedOperation:  # in memory
        return logging.StreamHandler(stream)


class DroppingHandler(logging.Handler):
    """Writes lines to a pipe, a terminal or a file.

    While the reader stalls, lines are dropped. After a stall the log first reports how many.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._room = select.poll()
        self._room.register(descriptor, select.POLLOUT)
        self._dropped = 0
        self._torn = False  # whether the last line was written in part

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a line, or drops it."""
        try:
            if self._dropped and self._write(_missing(self._dropped)):
                self._dropped = 0
            if self._dropped or not self._write(record):
                self._dropped += 1
        except OSError:  # the reader is gone
            self._dropped += 1
        except Exception:  # like logging's own handlers: never fail the caller
            self.handleError(record)

    def _write(self, record: logging.LogRecord) -> bool:
        """Writes a record. Returns whether the whole line was written."""
        line = f"{self.format(record)}\n"
        left = memoryview((f"\n{line}" if self._torn else line).encode(errors="backslashreplace"))
        timeout = 0 if self._dropped else WRITE_TIMEOUT
        while left and self._room.poll(timeout):
            written = os.write(self._descriptor, left[:CHUNK_BYTES])
            left, self._torn = left[written:], True
        self._torn = self._torn and bool(left)
        return not left


def _missing(lines: int) -> logging.LogRecord:
    return logging.makeLogRecord(
        {
            "name": __name__,
            "levelno": logging.WARNING,
            "levelname": "WARNING",
            "msg": "log lines dropped: the reader stalled",
            "lines": lines,
        }
    )
