"""The pace of a run: so many pairs a second, evenly, for the sake of whoever shares the device."""

import threading
import time
from collections.abc import Callable


class RunStopped(Exception):  # it is no error
    """The run is to end now."""


class RateLimiter:
    """Lets the threads of a run go on when it is their turn.

    Args:
        rate: Pairs a second, all threads together; 0 for as fast as can be.
        clock: Seconds.
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds_a_pair = 1 / rate if rate else 0.0
        self._clock = clock
        self._lock = threading.Lock()
        self._free_at = float("-inf")  # the clock's
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Ends the run: every thread's next turn, also one waited for now, raises Stopped."""
        self._stopped.set()

    def take(self, pairs: int) -> None:
        """Waits until it is time for as many pairs.

        Raises:
            Stopped: The run is to end now.
        """
        if self._stopped.wait(min(self.reserve(pairs), threading.TIMEOUT_MAX)):
            raise RunStopped

    def reserve(self, pairs: int) -> float:
        """Takes the next turn, long enough for as many pairs; how many seconds it is away."""
        with self._lock:
            now = self._clock()
            begins = max(self._free_at, now)
            self._free_at = begins + pairs * self._seconds_a_pair
            return begins - now
