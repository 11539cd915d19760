"""Sends calls in a closed loop (a caller waits for its reply) or an open loop (at scheduled times)."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import count, cycle, takewhile

import grpc
import numpy as np

from animora_client.bench.checking import Verdict, check_reply
from animora_client.bench.recorder import CallRecorder, Timing
from animora_client.bench.traffic import Call

Send = Callable[[bytes], Awaitable[bytes]]

SEND_GRACE = 0.1  # seconds after the end in which late calls are still sent


class Arrivals(StrEnum):
    """The arrival process of an open loop."""

    POISSON = "poisson"  # independent callers: exponential gaps
    CONSTANT = "constant"  # equal gaps


@dataclass(frozen=True, slots=True)
class LoadPace:
    """The duration of the load, and its limits.

    Attributes:
        duration: Seconds of the measurement.
        warmup: Seconds before the measurement.
        max_calls: Calls at most, including the warm-up.
        max_in_flight: Calls in flight of an open loop at most; the wait of further calls counts as latency.
    """

    duration: float
    warmup: float = 1.0
    max_calls: int = 5_000_000
    max_in_flight: int = 10_000


class Driver:
    """Sends calls in rotation by `send`, which raises `grpc.RpcError`, and records their outcomes."""

    def __init__(self, send: Send, calls: Sequence[Call], pace: LoadPace, recorder: CallRecorder) -> None:
        self._send = send
        self._calls = cycle(calls)
        self._left = pace.max_calls
        self._max_in_flight = pace.max_in_flight
        self._length = pace.warmup + pace.duration
        self._recorder = recorder
        self._start = 0.0

    async def closed_loop(self, concurrency: int) -> None:
        """Runs `concurrency` callers, each of which waits for its reply."""
        self._begin()
        try:
            async with asyncio.TaskGroup() as callers:
                for _ in range(concurrency):
                    callers.create_task(self._caller())
        finally:
            self._end()

    async def open_loop(self, arrivals: Iterator[float]) -> None:
        """Sends calls at scheduled times (ascending, in seconds from the start), however long replies take.

        Latency counts from the scheduled time, so a call that is sent late has waited.
        """
        slots = asyncio.Semaphore(self._max_in_flight)
        self._begin()
        try:
            async with asyncio.TaskGroup() as callers:
                for intended in arrivals:
                    if intended >= self._length or self._left == 0:
                        break
                    # A sleep of 0 lets replies be received when sending is late.
                    await asyncio.sleep(max(0.0, intended - self._now()))
                    await slots.acquire()
                    if self._now() >= self._length + SEND_GRACE:
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
            verdict = check_reply(call, reply)
        self._recorder.add(Timing(intended, sent, done), verdict)

    def _begin(self) -> None:
        self._start = asyncio.get_running_loop().time()

    def _end(self) -> None:
        self._recorder.elapsed = min(self._now(), self._length)

    def _now(self) -> float:
        return asyncio.get_running_loop().time() - self._start


def arrival_times(arrivals: Arrivals, rate: float, seed: int) -> Iterator[float]:
    """An endless iterator of ascending times in seconds, `rate` per second on average."""
    if arrivals is Arrivals.CONSTANT:
        return (index / rate for index in count())
    return _poisson(rate, np.random.default_rng(seed))


def _poisson(rate: float, rng: np.random.Generator) -> Iterator[float]:
    now = 0.0
    while True:
        times = now + np.cumsum(rng.exponential(1 / rate, 1024))
        yield from times.tolist()
        now = float(times[-1])
