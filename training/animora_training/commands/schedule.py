"""`--every`: a fit, and then another one, until somebody asks for an end."""

import re
import signal
import time
import traceback
from collections.abc import Callable
from datetime import datetime, timedelta
from types import FrameType, TracebackType
from typing import Protocol, Self

from rich.console import Console

from animora_artifact import ArtifactError
from animora_process.signals import ending_signals
from animora_training.commands.console import fail
from animora_training.errors import Interrupted, InvalidOption, TrainingError, WorseThanActive

# Those that this process was started to ignore, as a shell starts `fit &`, end nothing.
SIGNALS = tuple(number for number in ending_signals() if signal.getsignal(number) is not signal.SIG_IGN)
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
LONGEST = 366 * SECONDS["d"]
# How long after a first failure a fit is tried again, in seconds, and how often that may double.
FIRST_PAUSE = 60.0
MAX_DOUBLINGS = 20
# How long a signal may go unnoticed while nothing is done, in seconds.
LOOK_EVERY = 1.0


class Clock(Protocol):
    """Time, and whether there is to be an end."""

    def now(self) -> float:
        """Seconds from any moment."""
        ...

    def wait(self, seconds: float) -> bool:
        """Waits, and says whether there is to be an end, if so at once."""
        ...


class Ending:
    """Signals that ask for an end, noted until there is time for them. A context manager, and a Clock.

    Only the first one is noted: a second one does what it does to any program.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before = {number: signal.getsignal(number) for number in SIGNALS}

    def __enter__(self) -> Self:
        for number in SIGNALS:
            signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def check(self) -> None:
        """Raises Interrupted where an end was asked for."""
        if self.signal is not None:
            raise Interrupted(f"ended by {self.signal.name}: go on with --resume, if it has a --run-dir")

    def now(self) -> float:
        """See Clock."""
        return time.monotonic()

    def wait(self, seconds: float) -> bool:
        """See Clock."""
        end = self.now() + seconds
        while self.signal is None and (left := end - self.now()) > 0:
            time.sleep(min(left, LOOK_EVERY))
        return self.signal is not None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)


def duration(text: str) -> float:
    """Seconds of a text such as 90m, 24h or 7d.

    Raises:
        InvalidOption: It is none, no time at all, or longer than LONGEST.
    """
    found = re.fullmatch(r"(\d+)([smhd])", text)
    seconds = int(found[1]) * SECONDS[found[2]] if found else 0
    if not 0 < seconds <= LONGEST:
        raise InvalidOption("--every", f"{text!r} is not a duration such as 90m, 24h or 7d, of at most 366d")
    return float(seconds)


def repeat(work: Callable[[], None], every: float, clock: Clock, out: Console) -> None:
    """Works again and again: each time so many seconds after it last began, or at once where it took longer.

    What fails is told, counted, and tried again after a pause, which doubles from one failure in a row to the
    next, up to `every`. A version that is refused is no failure: the next one is made when it is time.
    Returns when an end was asked for.

    Args:
        work: What to do; raises Interrupted when an end was asked for.
        every: From one beginning to the next.
        clock: Time.
        out: Where to say when the next one begins.

    Raises:
        InvalidOption: An option is wrong, and would be the next time.
    """
    failures = 0
    while True:
        began = clock.now()
        pause = 0.0
        try:
            work()
            failures = 0
        except Interrupted:
            return
        except InvalidOption:
            raise
        except WorseThanActive as error:
            fail(str(error))
            failures = 0
        except Exception as error:  # a schedule must outlive whatever one run meets with
            failures += 1
            _tell(error, failures)
            pause = min(FIRST_PAUSE * 2.0 ** min(failures - 1, MAX_DOUBLINGS), every)
        left = pause or max(began + every - clock.now(), 0.0)
        out.print(f"the next fit begins at {datetime.now() + timedelta(seconds=left):%Y-%m-%d %H:%M:%S}")
        if clock.wait(left):
            return


def _tell(error: Exception, failures: int) -> None:
    """Says what went wrong; of what nobody has foreseen also where."""
    if not isinstance(error, TrainingError | ArtifactError):
        traceback.print_exception(error)
    text = str(error) or type(error).__name__
    fail(text if failures == 1 else f"{text} (failure {failures} in a row)")
