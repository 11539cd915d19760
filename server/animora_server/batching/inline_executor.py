"""Work that is not worth waiting for: done as soon as it is asked for, within a share of each loop's turn."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

MAX_SECONDS_PER_TURN = 0.001  # of a turn of the event loop; who comes then waits, and shares a batch

Work = TypeVar("Work")
Result = TypeVar("Result")


class InlineExecutor(Generic[Work, Result]):
    """Executes such works, and leaves the others.

    Args:
        execute: Gets works and returns as many results, or None for works that are to wait.
    """

    def __init__(self, execute: Callable[[Sequence[Work]], Sequence[Result] | None]) -> None:
        self._execute = execute
        self._seconds: float | None = None  # in this turn of the event loop

    def execute(self, work: Work, future: "asyncio.Future[Result]") -> float | None:
        """Gives a future its result or failure; returns the seconds that took, None if it is to wait."""
        if self._seconds is None:
            self._seconds = 0.0
            asyncio.get_running_loop().call_soon(self._end_turn)
        elif self._seconds > MAX_SECONDS_PER_TURN:
            return None
        started = time.perf_counter()
        try:
            results = self._execute([work])
        except Exception as error:  # whatever it is must reach whoever waits for it
            future.set_exception(error)
        else:
            if results is None:
                return None
            future.set_result(results[0])
        seconds = time.perf_counter() - started
        self._seconds += seconds
        return seconds

    def _end_turn(self) -> None:
        self._seconds = None
