"""The signals that end a process: at once while it starts, with a drain once it serves."""

import os
import signal
from collections.abc import Iterator
from types import FrameType


def ending_signals() -> Iterator[signal.Signals]:
    """SIGTERM, SIGINT and SIGHUP; not SIGHUP if the process ignores it (`nohup`).

    No command reloads its configuration, so SIGHUP means that the terminal or session has ended.
    """
    yield signal.SIGTERM
    yield signal.SIGINT
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        yield signal.SIGHUP


def end_at_once() -> None:
    """Makes signals end this process until its program handles them; call it before slow imports.

    Without a handler, the kernel does not deliver these signals to the first process of a container.
    """
    for number in ending_signals():
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)
