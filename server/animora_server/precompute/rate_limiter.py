"""Limits the rate of a run, evenly over time, so that a server can share the device."""

import threading
import time
from collections.abc import Callable


class RunStopped(Exception):  # control flow, not an error
    """The run was stopped."""


class RateLimiter:
    """Makes the threads of a run wait for their turns. Thread-safe.

    Args:
        rate: Pairs a second, over all threads; 0 for no limit.
        clock: Monotonic seconds.
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds_a_pair = 1 / rate if rate else 0.0
        self._clock = clock
        self._lock = threading.Lock()
        self._free_at = float("-inf")  # on the clock
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Stops the run: `take` raises RunStopped from now on, also in threads that wait in it."""
        self._stopped.set()

    def take(self, pairs: int) -> None:
        """Waits for the turn of a number of pairs.

        Raises:
            RunStopped: The run was stopped.
        """
        if self._stopped.wait(min(self.reserve(pairs), threading.TIMEOUT_MAX)):
            raise RunStopped

    def reserve(self, pairs: int) -> float:
        """Reserves the next turn for a number of pairs. Returns the seconds until it begins."""
        with self._lock:
            now = self._clock()
            begins = max(self._free_at, now)
            self._free_at = begins + pairs * self._seconds_a_pair
            return begins - now
