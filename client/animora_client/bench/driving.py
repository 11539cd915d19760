"""Sends calls in a closed loop (a caller waits for its reply) or an open one (the next caller does not)."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, takewhile

import grpc

from animora_client.bench.checking import Verdict, judge
from animora_client.bench.recorder import CallRecorder, Timing
from animora_client.bench.traffic import Call

Send = Callable[[bytes], Awaitable[bytes]]

LATEST = 0.1  # seconds after the end at which calls that were due before it are still sent


@dataclass(frozen=True, slots=True)
class LoadPace:
    """How long the load lasts.

    Attributes:
        duration: Seconds that are measured.
        warmup: Seconds before them that are not.
        max_calls: Ends the load early, warm-up included.
        max_in_flight: Of an open loop; later calls wait, and their wait is part of their latency.
    """

    duration: float
    warmup: float = 1.0
    max_calls: int = 5_000_000
    max_in_flight: int = 10_000


class Driver:
    """One load: the calls in turn, sent by `send`, which raises `grpc.RpcError`, into a recorder."""

    def __init__(self, send: Send, calls: Sequence[Call], pace: LoadPace, recorder: CallRecorder) -> None:
        self._send = send
        self._calls = cycle(calls)
        self._left = pace.max_calls
        self._max_in_flight = pace.max_in_flight
        self._length = pace.warmup + pace.duration
        self._recorder = recorder
        self._start = 0.0

    async def closed_loop(self, concurrency: int) -> None:
        """Keeps so many callers busy."""
        self._begin()
        try:
            async with asyncio.TaskGroup() as callers:
                for _ in range(concurrency):
                    callers.create_task(self._caller())
        finally:
            self._end()

    async def open_loop(self, arrivals: Iterator[float]) -> None:
        """Sends at ascending times, in seconds from the start, however long replies take.

        Latencies run from the intended time: a call that is sent late, because the server or this
        program is behind, has waited.
        """
        slots = asyncio.Semaphore(self._max_in_flight)
        self._begin()
        try:
            async with asyncio.TaskGroup() as callers:
                for intended in arrivals:
                    if intended >= self._length or self._left == 0:
                        break
                    # A sleep of 0 lets replies in when sending is behind.
                    await asyncio.sleep(max(0.0, intended - self._now()))
                    await slots.acquire()
                    if self._now() >= self._length + LATEST:
                        due = takewhile(lambda later: later < self._length, arrivals)
                        self._recorder.unsent = 1 + sum(1 for _ in due)
                        break
                    self._left -= 1
                    callers.create_task(self._call(intended)).add_done_callback(lambda _: slots.release())
        finally:
            self._end()

    async def _caller(self) -> None:
        while self._left > 0 and (now := self._now()) < self._length:
            self._left -= 1
            await self._call(now)

    async def _call(self, intended: float) -> None:
        call = next(self._calls)
        sent = self._now()
        try:
            reply = await self._send(call.body)
        except grpc.RpcError as error:
            done = self._now()
            verdict = Verdict(error.code().name)
        else:
            done = self._now()
            verdict = judge(call, reply)
        self._recorder.add(Timing(intended, sent, done), verdict)

    def _begin(self) -> None:
        self._start = asyncio.get_running_loop().time()

    def _end(self) -> None:
        self._recorder.elapsed = min(self._now(), self._length)

    def _now(self) -> float:
        return asyncio.get_running_loop().time() - self._start
