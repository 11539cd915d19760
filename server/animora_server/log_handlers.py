"""Handlers of the log: one limits the lines of an event, one writes without blocking.

A flood of one event must not hide the rest, and a reader of the log that stalls must not block the server.
"""

import io
import logging
import os
import re
import select
import time
from collections import Counter
from collections.abc import Callable
from threading import Timer
from typing import TextIO

LINES_PER_SECOND = 20  # per kind
WINDOW = 1.0  # seconds
MAX_KINDS = 1000  # distinguished per window
CHUNK_BYTES = select.PIPE_BUF  # a writable pipe takes this many bytes without blocking
WRITE_TIMEOUT = 50  # milliseconds, for a slow reader

_VARIABLE = re.compile(r"0x[0-9a-fA-F]+|\d+")  # parts of a text that differ from line to line

Kind = tuple[str, str, str]  # logger, level, event


class RateLimitedHandler(logging.Handler):
    """Passes a limited number of lines per kind and window, then logs how many lines it suppressed.

    Lines with the same logger, level and event, ignoring numbers in the event, are of one kind. Lines below
    `info` are not limited.

    Args:
        target: Writes the lines.
        lines: Lines per kind and window.
        window: Length of a window in seconds.
        clock: Returns seconds.
    """

    def __init__(
        self,
        target: logging.Handler,
        lines: int = LINES_PER_SECOND,
        window: float = WINDOW,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._target = target
        self._lines = lines
        self._window = window
        self._clock = clock
        self._seen: Counter[Kind] = Counter()
        self._window_ends = 0.0
        self._summary: Timer | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Passes a line to the target, or counts it as suppressed."""
        if record.levelno < logging.INFO:
            self._target.handle(record)
            return
        if self._clock() >= self._window_ends:
            self._begin_window()
        kind = self._kind(record)
        self._seen[kind] += 1
        if self._seen[kind] <= self._lines:
            self._target.handle(record)
        elif self._summary is None:
            self._summary = self._start_summary()

    def flush(self) -> None:
        """Ends the window, and logs how many lines it suppressed."""
        self.acquire()
        try:
            self._begin_window()
        finally:
            self.release()

    def _start_summary(self) -> Timer | None:
        """Starts a timer that ends the window, in case no further line does."""
        summary = Timer(self._window, self.flush)
        summary.daemon = True
        try:
            summary.start()
        except RuntimeError:  # no thread left; logging must not fail the caller
            return None
        return summary

    def _begin_window(self) -> None:
        seen, self._seen = self._seen, Counter()
        self._window_ends = self._clock() + self._window
        if self._summary is not None:
            self._summary.cancel()
            self._summary = None
        for kind, count in seen.items():
            if count > self._lines:
                self._target.handle(_summary(kind, count - self._lines))

    def _kind(self, record: logging.LogRecord) -> Kind:
        event = record.msg.get("event", "") if isinstance(record.msg, dict) else record.msg
        first_line = str(event).partition("\n")[0][:200]
        kind = record.name, record.levelname, _VARIABLE.sub("#", first_line)
        if kind not in self._seen and len(self._seen) >= MAX_KINDS:
            return record.name, record.levelname, "other events"
        return kind


def _summary(kind: Kind, lines: int) -> logging.LogRecord:
    logger, level, event = kind
    return logging.makeLogRecord(
        {
            "name": logger,
            "levelno": logging.getLevelNamesMapping()[level],
            "levelname": level,
            "msg": "similar log lines were suppressed",
            "similar_to": event,
            "lines": lines,
        }
    )


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
