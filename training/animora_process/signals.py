"""The signals that end a process: at once while it starts, and by draining once it serves."""

import os
import signal
from collections.abc import Iterator
from types import FrameType


def ending_signals() -> Iterator[signal.Signals]:
    """SIGTERM, SIGINT and, unless this process was started to ignore it (`nohup`), SIGHUP.

    There is no configuration to reload, so SIGHUP means that a terminal or a session has ended.
    """
    yield signal.SIGTERM
    yield signal.SIGINT
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        yield signal.SIGHUP


def end_at_once() -> None:
    """Lets signals end this process until its program handles them; call it before any slow import.

    The kernel keeps from the first process of a container every signal that it has no handler for.
    """
    for number in ending_signals():
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)
