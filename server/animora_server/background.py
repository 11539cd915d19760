"""Background loops: they outlive errors, count them, and fail liveness when they end.

Every loop of the server is a `BackgroundLoop`. It logs and counts the errors of its rounds and continues
after a pause, so that neither an outage nor a bug ends it. `Liveness` reports a loop that has ended
nevertheless, and an event loop that is blocked.
"""

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import structlog

from animora_server.errors import AnimoraError

log = structlog.get_logger(__name__)

STALL = 5.0  # seconds without a round of the heartbeat after which the event loop counts as blocked
MAX_REASONS = 16  # different errors of a row that are logged at once: some texts differ each time
CANCEL_INTERVAL = 0.5  # seconds; Python 3.11's wait_for, which libraries use, may lose a cancellation

# Operational errors, such as an unreachable database. Any other error of a background loop is a bug.
EXPECTED: tuple[type[Exception], ...] = (AnimoraError, OSError)

Kind = Literal["expected", "unexpected"]


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff: pauses double with each failure in a row, jittered over their upper half.

    Attributes:
        first: Seconds after the first failure, at most.
        longest: Upper bound of a pause in seconds.
    """

    first: float = 0.1
    longest: float = 2.0

    def delay(self, failures: int) -> float:
        """Seconds before the next attempt after `failures` in a row, from 1."""
        longest = min(math.ldexp(self.first, min(failures - 1, 64)), self.longest)
        return longest * random.uniform(0.5, 1)


class BackgroundLoop:
    """Runs rounds until it is stopped. An error of a round is logged and counted, and the next round follows.

    It logs the first, second, fourth, eighth, … failure in a row, each with an error that is new in the row,
    and the first success after failures.

    Args:
        name: The task's name in the log and in metrics.
        run_round: Runs one round. Returns the seconds until the next one. A round may last as long as a
            connection does; it then calls `succeeded` periodically.
        expected: Operational errors, logged in one line. Any other error is a bug, logged with its traceback.
        backoff: The pauses after failures.
        wake: Ends a pause early when it is set. The round clears it.
        clock: Seconds.

    Attributes:
        failures: The number of failed rounds, by kind of error.
    """

    def __init__(
        self,
        name: str,
        run_round: Callable[[], Awaitable[float]],
        *,
        expected: tuple[type[Exception], ...] = EXPECTED,
        backoff: Backoff = Backoff(),  # frozen
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
        self._reasons: set[tuple[Kind, str]] = set()  # that were logged since the last success
        self._succeeded_at = self._ended_round_at = self._clock()

    def start(self) -> None:
        """Starts the first round."""
        self._succeeded_at = self._ended_round_at = self._clock()
        self._task = asyncio.create_task(self._run(), name=self.name)
        self._task.add_done_callback(self._report_end)

    async def stop(self) -> None:
        """Cancels the running round and waits until it has ended."""
        self._stopping = True
        while self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait((self._task,), timeout=CANCEL_INTERVAL)

    def succeeded(self) -> None:
        """Ends a row of failures. Called after each round that returns."""
        self._succeeded_at = self._clock()
        if self._failures_in_a_row:
            log.info("background task recovered", task=self.name, failures=self._failures_in_a_row)
        self._failures_in_a_row = 0
        self._reasons.clear()

    @property
    def age(self) -> float:
        """Seconds since the last success, or since the start. Thread-safe."""
        return self._clock() - self._succeeded_at

    @property
    def silence(self) -> float:
        """Seconds since a round ended, successful or not, or since the start; 0 before it. Thread-safe."""
        return 0.0 if self._task is None else self._clock() - self._ended_round_at

    def dead(self) -> str | None:
        """The problem if the loop has ended without being stopped, else None. Thread-safe."""
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
            return self._failed("unexpected", error)  # raised by a library; this task was not cancelled
        except Exception as error:  # loop boundary: a bug costs one round only
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
        reason = kind, _described(error)
        is_new = reason not in self._reasons and len(self._reasons) < MAX_REASONS
        if is_new:
            self._reasons.add(reason)
        if is_new or failures & (failures - 1) == 0:
            fields = {"task": self.name, "failures": failures, "retry_seconds": round(pause, 3)}
            if kind == "expected":
                log.warning("background task failed; retrying", **fields, error=_described(error))
            else:
                log.error("background task failed unexpectedly; retrying", **fields, exc_info=error)
        return pause

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(0)  # yields to other tasks even if `wake` is set
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            pass


class LoopOwner:
    """An async context manager whose background loop runs within the block.

    Attributes:
        loop: The background loop.
    """

    loop: BackgroundLoop

    async def __aenter__(self) -> Self:
        """Starts the loop."""
        self.loop.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        """Stops the loop, and waits until its round has ended."""
        await self.loop.stop()


class Liveness:
    """Liveness of a process: its event loop runs, and no background loop has ended.

    Args:
        heartbeat: A loop of short rounds and short pauses, which shows that the event loop runs.
    """

    def __init__(self, heartbeat: BackgroundLoop) -> None:
        self._heartbeat = heartbeat
        self._loops = [heartbeat]

    def watch(self, *loops: BackgroundLoop) -> None:
        """Adds loops that the process cannot do without."""
        self._loops += loops

    def dead(self) -> str | None:
        """Why the process should be restarted, or None. Thread-safe."""
        for loop in self._loops:
            if why := loop.dead():
                return why
        silence = self._heartbeat.silence
        if silence > STALL:
            return f"the event loop is blocked for {silence:.1f} s"
        return None


def log_task_failure(task: asyncio.Task[Any], consequence: str) -> None:
    """Logs the error that ends a task.

    Args:
        task: The task.
        consequence: The log event: what is no longer done.
    """

    def report(ended: asyncio.Task[Any]) -> None:
        if not ended.cancelled() and (error := ended.exception()) is not None:
            log.critical(consequence, exc_info=error)

    task.add_done_callback(report)


def was_cancelled() -> bool:
    """Whether the current task was cancelled; if not, a CancelledError comes from what it awaited."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def first_of(events: Mapping[str, asyncio.Event]) -> str:
    """Waits until one of several events is set. Returns its name; the first name if several are set."""
    waiting = [asyncio.create_task(event.wait()) for event in events.values()]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
    return next(name for name, event in events.items() if event.is_set())


async def stop(task: asyncio.Task[None] | None) -> None:
    """Cancels a task, unless it is None, and waits until it has ended."""
    if task is not None:
        task.cancel()
        await asyncio.wait((task,))


def _described(error: BaseException) -> str:
    """The text of an error, or its type if it has no text, such as a TimeoutError."""
    return str(error) or type(error).__name__
