"""Captures what native code, such as gRPC's core, writes to descriptor 2 directly, and logs it.

During the capture, descriptor 2 is a non-blocking pipe, and a thread logs each line that it reads from it. So
these lines are formatted, rate-limited and dropped like all log lines.
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
LONGEST_LINE = 8192  # characters; the rest is logged as a further line
RELEASE_TIMEOUT = 1.0  # seconds to read the last lines
LOGGER = logging.getLogger("stderr")

# Such as "I1130 08:11:57.123456    1234 ssl_transport_security.cc:1884] Handshake failed".
_NATIVE = re.compile(r"([IWEF])\d{4} \d\d:\d\d:\d\d(?:\.\d+)?\s+\d+ (\S+:\d+)\] (.*)")
_LEVELS = {"I": logging.INFO, "W": logging.WARNING, "E": logging.ERROR, "F": logging.CRITICAL}


@dataclass(frozen=True, slots=True)
class _Capture:
    original: int  # a duplicate of the original descriptor 2
    crashes: int  # the same without blocking, for crash tracebacks
    reader: Thread


_captures: list[_Capture] = []  # at most one per process


def start() -> None:
    """Starts the capture, unless descriptor 2 is a terminal. The log must already use another descriptor."""
    if _captures or os.isatty(STDERR):
        return
    original = os.dup(STDERR)
    crashes = _non_blocking(original)
    faulthandler.enable(crashes)  # past the pipe, which ends with this process
    reading, writing = os.pipe()
    _enlarge(writing)
    os.set_blocking(writing, False)
    os.dup2(writing, STDERR)
    os.close(writing)
    reader = Thread(target=_read, args=(reading,), name="stderr", daemon=True)
    reader.start()
    atexit.register(release)  # a final traceback may still be in the pipe
    _captures.append(_Capture(original, crashes, reader))


def release() -> None:
    """Ends the capture, if it runs: restores the descriptor and logs the last lines."""
    while _captures:
        capture = _captures.pop()
        os.dup2(capture.original, STDERR)
        faulthandler.enable(STDERR)
        for descriptor in {capture.original, capture.crashes}:
            os.close(descriptor)
        capture.reader.join(RELEASE_TIMEOUT)


def _non_blocking(descriptor: int) -> int:
    """Opens a pipe again with O_NONBLOCK; returns the descriptor itself if it is not a pipe.

    Setting O_NONBLOCK on the descriptor itself would affect all processes that share it.
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
        except OSError:  # over this user's limit: keep the default size
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
