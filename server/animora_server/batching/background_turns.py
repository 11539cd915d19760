"""Background turns: short device work that runs between batches."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from animora_server.errors import DeviceFault

Work = TypeVar("Work")
Value = TypeVar("Value")


class BackgroundTurns:
    """A queue of background turns and their results.

    Attributes:
        waiting: The turns that have not started, oldest first; they raise only what is not an Exception.
    """

    def __init__(self) -> None:
        self.waiting: deque[Callable[[], Awaitable[None]]] = deque()
        self._results: set[asyncio.Future[Any]] = set()

    def add(self, turn: Callable[[], Awaitable[Value]]) -> "asyncio.Future[Value]":
        """Queues a turn; a turn whose future is cancelled before it starts does not run."""
        result: asyncio.Future[Value] = asyncio.get_running_loop().create_future()

        async def run() -> None:
            if result.done():
                return
            try:
                value = await turn()
            except Exception as error:  # any error belongs to the caller
                if not result.done():
                    result.set_exception(error)
            except BaseException:
                if not result.done():
                    result.set_exception(DeviceFault("the turn was abandoned"))
                raise
            else:
                if not result.done():
                    result.set_result(value)

        self._results.add(result)
        result.add_done_callback(self._results.discard)
        self.waiting.append(run)
        return result

    def fail_all(self, failure: DeviceFault) -> None:
        """Fails the running turn and all that wait."""
        for result in list(self._results):
            if not result.done():
                result.set_exception(failure)


async def execute_timed(
    execute: Callable[[Sequence[Work]], Awaitable[Sequence[Value]]], work: Work
) -> tuple[Value, float]:
    """Executes one piece of work; returns its result, and the seconds that it took."""
    started = time.perf_counter()
    (result,) = await execute([work])
    return result, time.perf_counter() - started
