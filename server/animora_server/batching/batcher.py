"""The micro-batcher: work that queues while a batch runs becomes the next batch.

There is no timer unless a gather window is set. Cancelled and expired work leaves the queue before it is
executed. A batch that fails is repeated for each piece of work alone, so work that fails does not fail its
neighbours.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, NoReturn, Self, TypeVar

from animora_server.background import BackgroundLoop
from animora_server.batching.background_turns import BackgroundTurns, execute_timed
from animora_server.batching.cost import CostModel
from animora_server.batching.deadline_timer import DeadlineTimer
from animora_server.batching.observer import BatchObserver
from animora_server.errors import DeadlineUnreachable, DeviceFault, Overloaded, is_device_fault

MAX_INLINE_SECONDS = 0.001  # of a turn of the event loop; later work of the turn is queued and batched

Work = TypeVar("Work")
Result = TypeVar("Result")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Sizes in rows, times in seconds.

    Attributes:
        max_batch_rows: The most rows of a batch; a single larger piece of work runs alone.
        max_queue_rows: The most rows that may queue; more work is refused.
        gather_window: How long to wait for more work before a batch is formed.
        background_share: The least share of running time that background turns get while other work waits.
        probe_interval: The least time between two probes: work that is accepted although the cost estimate
            says that it will be late.
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
    is_queued: bool = True

    def expire(self) -> None:
        """Fails the future with DeadlineUnreachable."""
        if not self.future.done():
            self.future.set_exception(DeadlineUnreachable())


class Batcher(Generic[Work, Result]):
    """Queues work and executes it in batches, one batch at a time.

    Background turns run between batches: when no batch waits, or when they had less than their share of time.

    Args:
        execute: Executes a batch: takes the work of the batch in order, returns as many results. Raises
            DeviceFault when the device failed, Overloaded or DeadlineUnreachable when the device has a queue
            that refuses the batch. After any other error, OutOfDeviceMemory included, each piece of work is
            executed alone.
        limits: Sizes and times.
        cost: The cost estimate; it learns from each batch.
        observer: Receives the events of the queue.
        execute_inline: Executes short work, and returns None for other work. With it, short work that is
            submitted while nothing runs or waits is done before `submit` returns: no task and no further turn
            of the event loop is needed. Not used with a gather window.
        inline_seconds: The most seconds of inline execution in one turn of the event loop.
    """

    def __init__(
        self,
        execute: Callable[[Sequence[Work]], Awaitable[Sequence[Result]]],
        limits: BatchLimits,
        cost: CostModel,
        observer: BatchObserver,
        execute_inline: Callable[[Sequence[Work]], Sequence[Result] | None] | None = None,
        *,
        inline_seconds: float = MAX_INLINE_SECONDS,
    ) -> None:
        self._execute_batch = execute
        self._inline = None if limits.gather_window else execute_inline
        self._max_inline_seconds = inline_seconds
        self._inline_seconds = 0.0  # in this turn of the event loop
        self._limits = limits
        self._cost = cost
        self._observer = observer
        self._queue: deque[_Entry[Work, Result]] = deque()
        self._batch: list[_Entry[Work, Result]] = []
        self._failure: DeviceFault | None = None
        self._queued_rows = 0
        self._deadline_timer = DeadlineTimer(self._unfinished)
        self._background = BackgroundTurns()
        self._batch_seconds = 0.0
        self._background_seconds = 0.0
        self._wake = asyncio.Event()
        self.runner = BackgroundLoop("batcher", self._run)
        self._running_since: float | None = None
        self._running_estimate = 0.0
        self._probed_at = float("-inf")

    async def __aenter__(self) -> Self:
        """Starts the loop that executes batches."""
        self.runner.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stops; work that still waits fails with DeviceFault."""
        await self.runner.stop()
        self.fail(DeviceFault("the scorer is shut down"))

    def fail(self, failure: DeviceFault) -> None:
        """Gives up on the device: all running, waiting and later work fails with this error at once."""
        self._failure = failure
        _fail_all([*self._batch, *self._queue], failure)
        self._background.fail_all(failure)

    @property
    def queued_rows(self) -> int:
        """How many rows are in the queue."""
        return self._queued_rows

    @property
    def running_since(self) -> float | None:
        """When the running batch or background turn started, on the event loop's clock; None between them."""
        return self._running_since

    def submit(self, work: Work, rows: int, key: Hashable, deadline: float) -> "asyncio.Future[Result]":
        """Submits work; cancelling the returned future takes it out of the queue.

        Args:
            work: The work, passed to `execute`.
            rows: The size of the work.
            key: Only work with equal keys shares a batch.
            deadline: When the result is of no more use, on the event loop's clock.

        Returns:
            The future result. It fails with DeadlineUnreachable when the deadline passes, with DeviceFault,
            or with the error of the work.

        Raises:
            Overloaded: The queue is full.
            DeadlineUnreachable: The cost estimate says that the deadline cannot be met.
            DeviceFault: The device failed earlier.
        """
        if self._failure is not None:
            raise self._failure
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._queued_rows + rows > self._limits.max_queue_rows:
            self._observer.skipped("refused")
            raise Overloaded
        if now + self._estimate_wait(rows, now) > deadline and not self._may_probe(now, deadline):
            self._observer.skipped("refused")
            raise DeadlineUnreachable
        future: asyncio.Future[Result] = loop.create_future()
        if self._execute_inline(work, rows, future):
            return future
        entry = _Entry(work, rows, key, deadline, time.perf_counter(), future)
        self._queue.append(entry)
        self._queued_rows += rows
        self._wake.set()
        self._deadline_timer.watch(deadline)
        # Cancelled and expired work does not count towards a full queue.
        future.add_done_callback(lambda _: self._dequeue(entry))
        return future

    async def run_background(self, turn: Callable[[], Awaitable[Value]]) -> Value:
        """Runs one background turn alone on the device, between batches; returns its result.

        The caller keeps each turn short: a batch that arrives meanwhile waits for it.

        Raises:
            DeviceFault: The device failed.
        """
        if self._failure is not None:
            raise self._failure
        result = self._background.add(turn)
        self._wake.set()
        return await result

    async def execute_background(self, work: Work) -> tuple[Result, float]:
        """Executes short work as a background turn; returns its result and seconds, or raises its error."""
        return await self.run_background(partial(execute_timed, self._execute_batch, work))

    def _execute_inline(self, work: Work, rows: int, future: "asyncio.Future[Result]") -> bool:
        """Completes a future at once if its work is short and the device idle; returns whether it did."""
        is_busy = self._running_since is not None or self._queue or self._background.waiting
        if self._inline is None or is_busy or self._inline_seconds > self._max_inline_seconds:
            return False
        started = time.perf_counter()
        try:
            results = self._inline([work])
        except Exception as error:  # any error belongs to the submitter
            future.set_exception(error)
            if is_device_fault(error):
                self._observer.faulted()
        else:
            if results is None:
                return False
            future.set_result(results[0])
        seconds = time.perf_counter() - started
        if not self._inline_seconds:
            asyncio.get_running_loop().call_soon(self._end_turn)
        self._inline_seconds += seconds
        self._observer.waited(0.0)
        self._record_batch(rows, 1, seconds)
        return True

    def _end_turn(self) -> None:
        self._inline_seconds = 0.0

    def _record_batch(self, rows: int, works: int, seconds: float) -> None:
        # Both times decay, so that background turns cannot save up for a long burst.
        self._batch_seconds = 0.99 * self._batch_seconds + seconds
        self._background_seconds *= 0.99
        self._cost.observe(rows, seconds, asyncio.get_running_loop().time())
        self._observer.executed(rows, works, seconds)

    def _unfinished(self) -> Iterator[_Entry[Work, Result]]:
        return (entry for entry in (*self._batch, *self._queue) if not entry.future.done())

    def _dequeue(self, entry: _Entry[Work, Result]) -> None:
        if entry.is_queued:
            entry.is_queued = False
            self._queued_rows -= entry.rows

    def _estimate_wait(self, rows: int, now: float) -> float:
        """Estimated seconds until new work would be done, behind the running batch and the queue."""
        running = 0.0
        if self._running_since is not None:
            running = max(self._running_since + self._running_estimate - now, 0.0)
        ahead = self._queued_rows + rows
        return running + self._cost.estimate(ahead, 1 + ahead // self._limits.max_batch_rows, now)

    def _may_probe(self, now: float, deadline: float) -> bool:
        """Whether late work may run as a probe, once an interval: so a wrong estimate corrects itself."""
        if now >= deadline or now - self._probed_at < self._limits.probe_interval:
            return False
        self._probed_at = now
        return True

    async def _run(self) -> NoReturn:
        while True:
            await self._wake.wait()
            if self._limits.gather_window and 0 < self._queued_rows < self._limits.max_batch_rows:
                await asyncio.sleep(self._limits.gather_window)
            await asyncio.sleep(0)  # callers just answered may submit again, and go before background turns
            if self._background.waiting and (self._background_is_due() or not self._queue):
                await self._run_turn(self._background.waiting.popleft())
            elif batch := self._take_batch(asyncio.get_running_loop().time()):
                await self._run_batch(batch)
            elif not self._background.waiting:
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
        started = time.perf_counter()  # the event loop's clock may have a resolution of milliseconds
        try:
            await self._execute(batch)
            self._record_batch(rows, len(batch), time.perf_counter() - started)
        except BaseException:
            _fail_all(batch, DeviceFault("the batch was abandoned"))
            raise
        finally:
            self._batch = []
            self._running_since = None

    def _take_batch(self, now: float) -> list[_Entry[Work, Result]]:
        """Takes the head of the queue and the next entries of the same key that fit; drops dead entries."""
        batch: list[_Entry[Work, Result]] = []
        rows = 0
        while self._queue:
            entry = self._queue[0]
            if entry.future.done() or entry.deadline <= now:
                self._queue.popleft()
                self._dequeue(entry)
                self._observer.skipped("cancelled" if entry.future.cancelled() else "expired")
                entry.expire()
                continue
            if batch and (entry.key != batch[0].key or rows + entry.rows > self._limits.max_batch_rows):
                break
            self._queue.popleft()
            self._dequeue(entry)
            self._observer.waited(time.perf_counter() - entry.queued_at)
            batch.append(entry)
            rows += entry.rows
        return batch

    async def _execute(self, batch: list[_Entry[Work, Result]]) -> None:
        """Executes a batch and completes its futures; if it fails, executes each piece of work alone."""
        try:
            results = await self._execute_batch([entry.work for entry in batch])
            completed = list(zip(batch, results, strict=True))
        except (Overloaded, DeadlineUnreachable) as error:
            _fail_all(batch, error)
        except Exception as error:  # one poisoned piece of work: its error must reach its caller alone
            is_fault = is_device_fault(error)
            if is_fault:
                self._observer.faulted()
            if is_fault or len(batch) == 1:
                _fail_all(batch, error)
            else:
                for entry in batch:
                    if not entry.future.done():
                        await self._execute([entry])
        else:
            for entry, result in completed:
                if not entry.future.done():
                    entry.future.set_result(result)


def _fail_all(entries: Iterable[_Entry[Work, Result]], error: Exception) -> None:
    for entry in entries:
        if not entry.future.done():
            entry.future.set_exception(error)
