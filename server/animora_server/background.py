"""Background tasks: they run beside requests until they are stopped, outlive errors, and tell how they are.

Every loop of the server is a `BackgroundLoop`. It logs and counts the errors of its rounds and goes on after
a pause, so that neither an outage nor a bug ends it. `Liveness` tells a supervisor when one has ended all the
same, or when the event loop no longer turns.
"""

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import structlog

from animora_server.errors import AnimoraError

log = structlog.get_logger(__name__)

STALL = 5.0  # seconds without a round of the heartbeat after which the event loop counts as dead
CANCEL_INTERVAL = 0.5  # seconds; Python 3.11's wait_for, which libraries use, may lose a cancellation

# Errors of operation, such as a database that is away. Any other error of a background task is a bug.
EXPECTED: tuple[type[Exception], ...] = (AnimoraError, OSError)

Kind = Literal["expected", "unexpected"]


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses between attempts: they double with each failure in a row, and half of each is random.

    Attributes:
        first: Seconds after the first failure, at most.
        longest: Seconds after many, at most.
    """

    first: float = 0.1
    longest: float = 2.0

    def delay(self, failures: int) -> float:
        """Seconds before the next attempt after so many failures in a row, from 1."""
        longest = min(math.ldexp(self.first, min(failures - 1, 64)), self.longest)
        return longest * random.uniform(0.5, 1)


class BackgroundLoop:
    """Runs rounds until it is stopped. An error of a round is logged and counted, and the next round follows.

    The log tells of the first failure in a row, of the second, the fourth, the eighth and so on, and of the
    first success after failures.

    Args:
        name: The task's name in the log and in metrics.
        run_round: Runs one round. Returns the seconds until the next one. A round may last as long as a
            connection does; it then calls `succeeded` now and then.
        expected: Errors of operation, logged in one line. Any other is a bug, logged with its traceback.
        backoff: The pauses after failures.
        wake: Ends a pause early when it is set. The round clears it.
        clock: Seconds.

    Attributes:
        failures: How many rounds failed so far, by the kind of their error.
    """

    def __init__(
        self,
        name: str,
        run_round: Callable[[], Awaitable[float]],
        *,
        expected: tuple[type[Exception], ...] = EXPECTED,
        backoff: Backoff = Backoff(),  # it is frozen
        wake: asyncio.Event | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.failures: dict[Kind, int] = {"expected": 0, "unexpected": 0}
        self._run_round = run_round
        self._expected = expected
        self._backoff = backoff
        self._wake = asyncio.Event() if wake is None else wake
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._failures_in_a_row = 0
        self._succeeded_at = self._ended_round_at = self._clock()

    def start(self) -> None:
        """Starts the first round."""
        self._succeeded_at = self._ended_round_at = self._clock()
        self._task = asyncio.create_task(self._run(), name=self.name)
        self._task.add_done_callback(self._report_end)

    async def stop(self) -> None:
        """Cancels the round that runs and waits for its end, however it comes."""
        self._stopping = True
        while self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait((self._task,), timeout=CANCEL_INTERVAL)

    def succeeded(self) -> None:
        """Ends a row of failures. A round that returns does so by itself."""
        self._succeeded_at = self._clock()
        if self._failures_in_a_row:
            log.info("background task recovered", task=self.name, failures=self._failures_in_a_row)
        self._failures_in_a_row = 0

    @property
    def age(self) -> float:
        """Seconds since the last success, or since the start. From any thread."""
        return self._clock() - self._succeeded_at

    @property
    def silence(self) -> float:
        """Seconds since a round ended, well or not, or since the start; 0 before it. From any thread."""
        return 0.0 if self._task is None else self._clock() - self._ended_round_at

    def dead(self) -> str | None:
        """Why no further round will follow although nobody stopped the loop, or None. From any thread."""
        if self._task is None or self._stopping or not self._task.done():
            return None
        return f"background task {self.name} ended"

    async def _run(self) -> None:
        while not self._stopping:
            pause = await self._one_round()
            self._ended_round_at = self._clock()
            await self._pause(pause)

    async def _one_round(self) -> float:
        """Runs a round, and returns the pause after it."""
        try:
            pause = await self._run_round()
        except self._expected as error:
            return self._failed("expected", error)
        except asyncio.CancelledError as error:
            if self._stopping or was_cancelled():
                raise
            return self._failed("unexpected", error)  # a library's, not this task's
        except Exception as error:  # the edge of the loop: a bug costs a round, not all that would follow
            return self._failed("unexpected", error)
        self.succeeded()
        return pause

    def _report_end(self, task: asyncio.Task[None]) -> None:
        if not self._stopping:
            error = None if task.cancelled() else task.exception()
            log.critical("background task ended", task=self.name, exc_info=error)

    def _failed(self, kind: Kind, error: BaseException) -> float:
        self.failures[kind] += 1
        self._failures_in_a_row += 1
        failures = self._failures_in_a_row
        pause = self._backoff.delay(failures)
        if failures & (failures - 1) == 0:
            told = {"task": self.name, "failures": failures, "retry_seconds": round(pause, 3)}
            if kind == "expected":
                log.warning("background task failed; retrying", **told, error=_described(error))
            else:
                log.error("background task failed unexpectedly; retrying", **told, exc_info=error)
        return pause

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(0)  # also where `wake` is set: others go on between two rounds
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass


class Liveness:
    """Whether a process is worth keeping: its event loop turns, and no background loop has ended.

    Args:
        heartbeat: A loop of short rounds and short pauses, which shows that the event loop turns.
    """

    def __init__(self, heartbeat: BackgroundLoop) -> None:
        self._heartbeat = heartbeat
        self._loops = [heartbeat]

    def watch(self, *loops: BackgroundLoop) -> None:
        """The process needs these loops too."""
        self._loops += loops

    def dead(self) -> str | None:
        """Why the process should be restarted, or None. From any thread."""
        for loop in self._loops:
            if why := loop.dead():
                return why
        silence = self._heartbeat.silence
        if silence > STALL:
            return f"the event loop stands still for {silence:.1f} s"
        return None


def log_task_failure(task: asyncio.Task[Any], consequence: str) -> None:
    """Logs the error that ends a task.

    Args:
        task: The task.
        consequence: What is no longer done then.
    """

    def report(ended: asyncio.Task[Any]) -> None:
        if not ended.cancelled() and (error := ended.exception()) is not None:
            log.critical(consequence, exc_info=error)

    task.add_done_callback(report)


def was_cancelled() -> bool:
    """Whether somebody cancelled the task at hand; else a CancelledError comes from what it awaited."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def first_of(events: Mapping[str, asyncio.Event]) -> str:
    """Waits until one of some events is set. Returns its name, or the first one's if several are."""
    waiting = [asyncio.create_task(event.wait()) for event in events.values()]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
    return next(name for name, event in events.items() if event.is_set())


async def stop(task: asyncio.Task[None] | None) -> None:
    """Cancels a task, if there is one, and waits for its end, however it comes."""
    if task is not None:
        task.cancel()
        await asyncio.wait((task,))


def _described(error: BaseException) -> str:
    """The text of an error, which some have not: a MemoryError or a TimeoutError, for example."""
    return str(error) or type(error).__name__
