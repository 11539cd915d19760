"""Standard error of native code: gRPC's core and others write to descriptor 2 themselves, past the log.

While it is captured, descriptor 2 is a pipe that never blocks who writes, and a thread that reads it makes
each line one of the log. So such lines are formatted, limited and dropped as all others are.
"""

import atexit
import faulthandler
import fcntl
import logging
import os
import re
import stat
from dataclasses import dataclass
from threading import Thread

STDERR = 2
PIPE_BYTES = 1 << 20
LONGEST_LINE = 8192  # characters; what follows is a line of its own
RELEASE_TIMEOUT = 1.0  # seconds for the last lines
LOGGER = logging.getLogger("stderr")

# Such as "I1130 08:11:57.123456    1234 ssl_transport_security.cc:1884] Handshake failed".
_NATIVE = re.compile(r"([IWEF])\d{4} \d\d:\d\d:\d\d(?:\.\d+)?\s+\d+ (\S+:\d+)\] (.*)")
_LEVELS = {"I": logging.INFO, "W": logging.WARNING, "E": logging.ERROR, "F": logging.CRITICAL}


@dataclass(frozen=True, slots=True)
class _Capture:
    original: int  # where descriptor 2 led before
    crashes: int  # the same for the last words of a crash
    reader: Thread


_captures: list[_Capture] = []  # one at most: the descriptor is the process'


def start() -> None:
    """Captures the descriptor, unless it is a terminal. The log must have a descriptor of its own by then."""
    if _captures or os.isatty(STDERR):
        return
    original = os.dup(STDERR)
    crashes = _without_waiting(original)
    faulthandler.enable(crashes)  # a crash must be told of past the pipe, which ends with this process
    reading, writing = os.pipe()
    _enlarge(writing)
    os.set_blocking(writing, False)
    os.dup2(writing, STDERR)
    os.close(writing)
    reader = Thread(target=_read, args=(reading,), name="stderr", daemon=True)
    reader.start()
    atexit.register(release)  # also after an error that ends the interpreter, whose traceback is in the pipe
    _captures.append(_Capture(original, crashes, reader))


def release() -> None:
    """Gives the descriptor back, if it is captured, and waits a moment for the last lines."""
    while _captures:
        capture = _captures.pop()
        os.dup2(capture.original, STDERR)
        faulthandler.enable(STDERR)
        for descriptor in {capture.original, capture.crashes}:
            os.close(descriptor)
        capture.reader.join(RELEASE_TIMEOUT)


def _without_waiting(descriptor: int) -> int:
    """Where a pipe is: the pipe, opened anew, so that its being full holds up nobody; else the descriptor.

    To set O_NONBLOCK on the descriptor itself would set it for all processes that share it.
    """
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        return descriptor
    try:
        return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK)
    except OSError:  # no /proc, or another user's pipe
        return descriptor


def _enlarge(pipe: int) -> None:
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        try:
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except OSError:  # over this user's limit: it stays as it is
            return


def _read(descriptor: int) -> None:
    with open(descriptor, encoding="utf-8", errors="backslashreplace") as stream:
        while line := stream.readline(LONGEST_LINE):
            if text := line.rstrip():
                _log(text)


def _log(line: str) -> None:
    native = _NATIVE.fullmatch(line)
    if native is None:
        LOGGER.warning(line)
    else:
        level, source, text = native.groups()
        LOGGER.log(_LEVELS[level], text, extra={"source": source})
