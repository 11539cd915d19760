"""How many log lines of one kind are written a second: a flood of one event must not drown the others."""

import logging
import re
import time
from collections import Counter
from collections.abc import Callable
from threading import Timer

LINES_A_SECOND = 20  # of one kind
WINDOW = 1.0  # seconds
MOST_KINDS = 1000  # told apart in a window

_VARIABLE = re.compile(r"0x[0-9a-fA-F]+|\d+")  # parts of a text that differ from line to line

Kind = tuple[str, str, str]  # logger, level, event


class RateLimitedHandler(logging.Handler):
    """Passes some lines of each kind on in each window of time; a further line says how many it suppressed.

    Lines are of one kind where logger, level and event are the same, numbers in the event aside. Lines below
    `info` are not limited: who asks for them wants all.

    Args:
        target: Writes the lines.
        lines: Of each kind in a window.
        window: Seconds.
        clock: Seconds.
    """

    def __init__(
        self,
        target: logging.Handler,
        lines: int = LINES_A_SECOND,
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
        """Passes a line on, or counts it."""
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
        """Ends the window: says what it suppressed."""
        self.acquire()
        try:
            self._begin_window()
        finally:
            self.release()

    def _start_summary(self) -> Timer | None:
        """Ends the window in case that no other line follows."""
        summary = Timer(self._window, self.flush)
        summary.daemon = True
        try:
            summary.start()
        except RuntimeError:  # the system has no thread left; whoever logs must not fail for it
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
        if kind not in self._seen and len(self._seen) >= MOST_KINDS:
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
