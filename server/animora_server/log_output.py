"""Where log lines go: a reader that stands still, as a stuck collector does, must not hold up the server."""

import io
import logging
import os
import select
from typing import TextIO

AT_ONCE = select.PIPE_BUF  # bytes that a pipe takes without waiting, when it takes any
PATIENCE = 50  # milliseconds for a reader that is only slow


def handler_for(stream: TextIO) -> logging.Handler:
    """A handler that writes to a stream, without waiting for long where the stream is the system's."""
    try:
        return DroppingHandler(os.dup(stream.fileno()))  # its own: descriptor 2 may be led elsewhere
    except io.UnsupportedOperation:  # in memory
        return logging.StreamHandler(stream)


class DroppingHandler(logging.Handler):
    """Writes lines to a pipe, a terminal or a file.

    While nobody reads them they are dropped; the first line that is read again comes after one that says how
    many are missing.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._room = select.poll()
        self._room.register(descriptor, select.POLLOUT)
        self._dropped = 0
        self._torn = False  # whether half a line was the last that was taken

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a line, or drops it."""
        try:
            if self._dropped and self._write(_missing(self._dropped)):
                self._dropped = 0
            if self._dropped or not self._write(record):
                self._dropped += 1
        except OSError:  # nobody will read it
            self._dropped += 1
        except Exception:  # as logging's own handlers have it: a line is not worth the call that it is about
            self.handleError(record)

    def _write(self, record: logging.LogRecord) -> bool:
        """Whether all of its line was taken."""
        line = f"{self.format(record)}\n"
        left = memoryview((f"\n{line}" if self._torn else line).encode(errors="backslashreplace"))
        patience = 0 if self._dropped else PATIENCE
        while left and self._room.poll(patience):
            taken = os.write(self._descriptor, left[:AT_ONCE])
            left, self._torn = left[taken:], True
        self._torn = self._torn and bool(left)
        return not left


def _missing(lines: int) -> logging.LogRecord:
    return logging.makeLogRecord(
        {
            "name": __name__,
            "levelno": logging.WARNING,
            "levelname": "WARNING",
            "msg": "lines are missing here: nobody read them",
            "lines": lines,
        }
    )
