"""The micro-batcher: work queues in rows while a batch runs, and becomes the next batch.

There is no timer unless a gather window is set. Work that is cancelled or too late leaves the queue
before it is executed; one that fails takes no neighbour along.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Generic, NoReturn, Self, TypeVar

from animora_server.background import BackgroundLoop
from animora_server.batching.cost import CostModel
from animora_server.batching.deadline_timer import DeadlineTimer
from animora_server.batching.inline_executor import InlineExecutor
from animora_server.batching.observer import BatchObserver
from animora_server.errors import DeadlineUnreachable, DeviceFault, OutOfDeviceMemory, Overloaded

Work = TypeVar("Work")
Result = TypeVar("Result")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Sizes in rows, times in seconds.

    Attributes:
        max_batch_rows: Executed at once; a single larger piece of work still runs, alone.
        max_queue_rows: Waiting before work is refused.
        gather_window: Waited for more work before a batch is taken.
        background_share: Least share of the running time that bulk turns get while other work waits.
        probe_interval: Between works let through although the estimate says that they come too late.
    """

    max_batch_rows: int = 8192
    max_queue_rows: int = 200_000
    gather_window: float = 0.0
    background_share: float = 0.05
    probe_interval: float = 0.1


@dataclass(eq=False, slots=True)
class _Entry(Generic[Work, Result]):
    work: Work
    rows: int
    key: Hashable
    deadline: float
    queued_at: float
    future: asyncio.Future[Result]
    waits: bool = True

    def expire(self) -> None:
        """Tells whoever waits that it is too late."""
        if not self.future.done():
            self.future.set_exception(DeadlineUnreachable())


class Batcher(Generic[Work, Result]):
    """Queues work and executes it in batches of one key, one batch at a time.

    `execute` gets the works of a batch, in order, and returns as many results. It raises OutOfDeviceMemory
    for a batch that may fit when halved, DeviceFault when the device is at fault, Overloaded or
    DeadlineUnreachable when
    the device has a queue of its own that refuses the batch, and anything else for the fault of some work in
    the batch, which is then found by bisection.

    `execute_inline`, where there is one, executes works that are not worth waiting for, and gives None for
    others.
    What is submitted while nothing else waits or runs is then done before `submit` returns, as long as such
    work has not taken its share of a turn of the event loop (`inline_executor.py`).

    Bulk turns run between batches: when no batch waits, or when they had less than their share of time.
    """

    def __init__(
        self,
        execute: Callable[[Sequence[Work]], Awaitable[Sequence[Result]]],
        limits: BatchLimits,
        cost: CostModel,
        observer: BatchObserver,
        execute_inline: Callable[[Sequence[Work]], Sequence[Result] | None] | None = None,
    ) -> None:
        self._execute_batch = execute
        # Where a window is set, work waits for company whatever it takes.
        self._inline = InlineExecutor(execute_inline) if execute_inline and not limits.gather_window else None
        self._limits = limits
        self._cost = cost
        self._observer = observer
        self._queue: deque[_Entry[Work, Result]] = deque()
        self._batch: list[_Entry[Work, Result]] = []
        self._failure: DeviceFault | None = None
        self._queued_rows = 0
        self._deadline_timer = DeadlineTimer(self._waiting)
        self._background: deque[Callable[[], Awaitable[None]]] = deque()
        self._background_results: set[asyncio.Future[Any]] = set()
        self._batch_seconds = 0.0
        self._background_seconds = 0.0
        self._wake = asyncio.Event()
        self.runner = BackgroundLoop("batcher", self._run)
        self._running_since: float | None = None
        self._running_estimate = 0.0
        self._probed_at = float("-inf")

    async def __aenter__(self) -> Self:
        """Starts to execute what is queued."""
        self.runner.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops; what still waits fails with DeviceFault."""
        await self.runner.stop()
        self.fail(DeviceFault("the scorer is shut down"))

    def fail(self, failure: DeviceFault) -> None:
        """Gives up on the device: whatever runs, waits, or is still to come fails at once."""
        self._failure = failure
        _fail([*self._batch, *self._queue], failure)
        for result in list(self._background_results):
            if not result.done():
                result.set_exception(failure)

    @property
    def queued_rows(self) -> int:
        """The rows that wait now."""
        return self._queued_rows

    @property
    def running_since(self) -> float | None:
        """When the running batch or bulk turn began, on the event loop's clock; None between them."""
        return self._running_since

    def submit(self, work: Work, rows: int, key: Hashable, deadline: float) -> "asyncio.Future[Result]":
        """Queues work; its result is to come. Work whose future is cancelled leaves the queue.

        Args:
            work: What `execute` gets.
            rows: Its size.
            key: Only work of an equal key shares a batch.
            deadline: When the result is of no more use, on the event loop's clock.

        Raises:
            Overloaded: The queue is full.
            DeadlineUnreachable: The estimate says that the deadline cannot be met; in the future: it has
                come.
            DeviceFault: The device failed; also in the future.
        """
        if self._failure is not None:
            raise self._failure
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._queued_rows + rows > self._limits.max_queue_rows:
            self._observer.skipped("refused")
            raise Overloaded
        if now + self._time_to_finish(rows, now) > deadline and not self._may_probe(now, deadline):
            self._observer.skipped("refused")
            raise DeadlineUnreachable
        future: asyncio.Future[Result] = loop.create_future()
        if self._is_idle and self._execute_inline(work, rows, future):
            return future
        entry = _Entry(work, rows, key, deadline, time.perf_counter(), future)
        self._queue.append(entry)
        self._queued_rows += rows
        self._wake.set()
        self._deadline_timer.watch(deadline)
        future.add_done_callback(partial(self._done, entry))
        return future

    async def run_background(self, turn: Callable[[], Awaitable[Value]]) -> Value:
        """Runs one short turn of work that can wait, alone on the device; its caller cuts it small.

        Raises:
            DeviceFault: The device failed.
        """
        if self._failure is not None:
            raise self._failure
        result: asyncio.Future[Value] = asyncio.get_running_loop().create_future()

        async def run() -> None:
            if result.done():
                return
            try:
                value = await turn()
            except Exception as error:  # it belongs to the caller, who is waiting for it
                if not result.done():
                    result.set_exception(error)
            except BaseException:
                if not result.done():
                    result.set_exception(DeviceFault("the turn was abandoned"))
                raise
            else:
                if not result.done():
                    result.set_result(value)

        self._background_results.add(result)
        result.add_done_callback(self._background_results.discard)
        self._background.append(run)
        self._wake.set()
        return await result

    async def execute_background(self, work: Work) -> Result:
        """Executes one short piece of work that can wait, as run_bulk does. Raises what the device raises."""
        (result,) = await self.run_background(partial(self._execute_batch, [work]))
        return result

    @property
    def _is_idle(self) -> bool:
        return self._running_since is None and not self._queue and not self._background

    def _execute_inline(self, work: Work, rows: int, future: "asyncio.Future[Result]") -> bool:
        """Gives a future its result, or its failure, if the work is not worth waiting for."""
        seconds = self._inline.execute(work, future) if self._inline else None
        if seconds is None:
            return False
        if isinstance(future.exception(), DeviceFault):
            self._observer.faulted()
        self._observer.waited(0.0)
        self._ran(rows, 1, seconds)
        return True

    def _ran(self, rows: int, works: int, seconds: float) -> None:
        # Both shares fade, so that a long quiet time earns no long burst.
        self._batch_seconds = 0.99 * self._batch_seconds + seconds
        self._background_seconds *= 0.99
        self._cost.observe(rows, seconds, asyncio.get_running_loop().time())
        self._observer.executed(rows, works, seconds)

    def _waiting(self) -> Iterator[_Entry[Work, Result]]:
        return (entry for entry in (*self._batch, *self._queue) if not entry.future.done())

    def _done(self, entry: _Entry[Work, Result], _: asyncio.Future[Result]) -> None:
        self._leave(entry)  # one that was cancelled, so that the dead do not fill the queue

    def _leave(self, entry: _Entry[Work, Result]) -> None:
        if entry.waits:
            entry.waits = False
            self._queued_rows -= entry.rows

    def _time_to_finish(self, rows: int, now: float) -> float:
        """Seconds until work of so many rows would be done, behind the running batch and the queue."""
        running = 0.0
        if self._running_since is not None:
            running = max(self._running_since + self._running_estimate - now, 0.0)
        ahead = self._queued_rows + rows
        return running + self._cost.estimate(ahead, 1 + ahead // self._limits.max_batch_rows, now)

    def _may_probe(self, now: float, deadline: float) -> bool:
        """Lets work through now and then, so that a wrong estimate corrects itself."""
        if now >= deadline or now - self._probed_at < self._limits.probe_interval:
            return False
        self._probed_at = now
        return True

    async def _run(self) -> NoReturn:
        while True:
            await self._wake.wait()
            if self._limits.gather_window and 0 < self._queued_rows < self._limits.max_batch_rows:
                await asyncio.sleep(self._limits.gather_window)
            await asyncio.sleep(0)  # whoever was just answered may ask again, and goes before bulk
            if self._background and (self._background_is_due() or not self._queue):
                await self._run_turn(self._background.popleft())
            elif batch := self._take(asyncio.get_running_loop().time()):
                await self._run_batch(batch)
            elif not self._background:
                self._wake.clear()

    def _background_is_due(self) -> bool:
        total = self._batch_seconds + self._background_seconds
        return self._background_seconds <= self._limits.background_share * total

    async def _run_turn(self, turn: Callable[[], Awaitable[None]]) -> None:
        self._running_since = asyncio.get_running_loop().time()
        self._running_estimate = 0.0
        started = time.perf_counter()
        try:
            await turn()
        finally:
            self._background_seconds += time.perf_counter() - started
            self._running_since = None

    async def _run_batch(self, batch: list[_Entry[Work, Result]]) -> None:
        rows = sum(entry.rows for entry in batch)
        self._running_since = asyncio.get_running_loop().time()
        self._running_estimate = self._cost.estimate(rows, 1, self._running_since)
        self._batch = batch
        started = time.perf_counter()  # the loop's clock may count in milliseconds
        try:
            await self._execute(batch)
            self._ran(rows, len(batch), time.perf_counter() - started)
        except BaseException:
            _fail(batch, DeviceFault("the batch was abandoned"))
            raise
        finally:
            self._batch = []
            self._running_since = None

    def _take(self, now: float) -> list[_Entry[Work, Result]]:
        """Takes the head of the queue and what shares its key, as far as it fits; drops the dead."""
        batch: list[_Entry[Work, Result]] = []
        rows = 0
        while self._queue:
            entry = self._queue[0]
            if entry.future.done() or entry.deadline <= now:
                self._queue.popleft()
                self._leave(entry)
                self._skip(entry)
                continue
            if batch and (entry.key != batch[0].key or rows + entry.rows > self._limits.max_batch_rows):
                break
            self._queue.popleft()
            self._leave(entry)
            self._observer.waited(time.perf_counter() - entry.queued_at)
            batch.append(entry)
            rows += entry.rows
        return batch

    def _skip(self, entry: _Entry[Work, Result]) -> None:
        self._observer.skipped("cancelled" if entry.future.cancelled() else "expired")
        entry.expire()

    async def _execute(self, batch: list[_Entry[Work, Result]], splits_left: int = 1) -> None:
        """Executes a batch and hands out its results, or finds whose fault it is that there are none."""
        try:
            results = await self._execute_batch([entry.work for entry in batch])
            answered = list(zip(batch, results, strict=True))
        except OutOfDeviceMemory as error:
            if len(batch) == 1 or not splits_left:
                _fail(batch, error)
            else:
                await self._execute_halves(batch, splits_left - 1)
        except DeviceFault as error:
            self._observer.faulted()
            _fail(batch, error)
        except (Overloaded, DeadlineUnreachable) as error:
            _fail(batch, error)
        except Exception as error:  # whatever one poisoned piece of work raises must reach its caller alone
            if len(batch) == 1:
                _fail(batch, error)
            else:
                await self._execute_halves(batch, splits_left)
        else:
            for entry, result in answered:
                if not entry.future.done():
                    entry.future.set_result(result)

    async def _execute_halves(self, batch: list[_Entry[Work, Result]], splits_left: int) -> None:
        middle = len(batch) // 2
        await self._execute(batch[:middle], splits_left)
        await self._execute(batch[middle:], splits_left)


def _fail(entries: Iterable[_Entry[Work, Result]], error: Exception) -> None:
    for entry in entries:
        if not entry.future.done():
            entry.future.set_exception(error)
