"""SIGTERM, SIGINT and SIGHUP end a fit cleanly: after the current step, with a checkpoint."""

import signal
from types import FrameType, TracebackType
from typing import Self

from animora_process.signals import ending_signals
from animora_training.errors import Interrupted

# A signal that this process ignores from its start, as SIGINT in a shell's `fit &`, stays ignored.
SIGNALS = tuple(number for number in ending_signals() if signal.getsignal(number) is not signal.SIG_IGN)


class StopSignals:
    """Context manager that records the first stop signal; `check` then raises Interrupted.

    The first signal restores the previous handlers, so a second one ends the process at once.

    Attributes:
        received: The first signal; None until one arrives.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous = {number: signal.getsignal(number) for number in SIGNALS}

    def __enter__(self) -> Self:
        for number in SIGNALS:
            signal.signal(number, self._record)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def check(self) -> None:
        """Raises Interrupted after a signal."""
        if self.received is not None:
            raise Interrupted(f"ended by {self.received.name}: with a --run-dir, --resume continues the fit")

    def _record(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
