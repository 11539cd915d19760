"""Inline execution: short work runs when it is submitted, for a bounded share of a turn of the event loop."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

MAX_SECONDS_PER_TURN = 0.001  # of a turn of the event loop; later work of the turn is queued and batched

Work = TypeVar("Work")
Result = TypeVar("Result")


class InlineExecutor(Generic[Work, Result]):
    """Executes work at once where that is short.

    Args:
        execute: Takes a list of work and returns as many results, or None for work that is not short.
        max_seconds: The most seconds of inline execution in one turn of the event loop.
    """

    def __init__(
        self,
        execute: Callable[[Sequence[Work]], Sequence[Result] | None],
        max_seconds: float = MAX_SECONDS_PER_TURN,
    ) -> None:
        self._execute = execute
        self._max_seconds = max_seconds
        self._seconds: float | None = None  # used in this turn of the event loop; None before the first work

    def execute(self, work: Work, future: "asyncio.Future[Result]") -> float | None:
        """Completes a future with the result or error of work.

        Returns:
            The seconds that the work took; None where it was not executed and is to be queued.
        """
        if self._seconds is None:
            self._seconds = 0.0
            asyncio.get_running_loop().call_soon(self._end_turn)
        elif self._seconds > self._max_seconds:
            return None
        started = time.perf_counter()
        try:
            results = self._execute([work])
        except Exception as error:  # any error belongs to the submitter
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
