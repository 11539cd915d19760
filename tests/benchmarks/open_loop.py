"""An open-loop load of unary gRPC calls: each is sent when it is due, whatever has become of those before.

The generator speaks HTTP/2 itself, in one thread, with one constant header block for all calls: a call costs
it some 20 us, so that one core offers more than ten times what a server on another can answer. Like the
channels of gRPC it honours the server's limit of concurrent streams and its flow control, lets the deadline
of a call run while it waits for either, sends the time that is left, and resets the stream when the deadline
has passed.

With `throttling` each connection holds calls back as the shipped client does.

`main` is the process of the generator: it reads a Plan as a pickle from the standard input, and writes an
Outcomes to the standard output.
"""

import asyncio
import pickle
import random
import selectors
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from animora_client import Throttling
from animora_client.overload import AdaptiveThrottle
from tests.benchmarks.http2_connection import Connection, Headers, Outcome, flush
from tests.benchmarks.processes import LOAD_CORES
from tests.support.http2 import grpc_message

SETTLE = 0.3  # seconds until the load starts
POLL = 0.001  # seconds; the longest wait for a socket


@dataclass(frozen=True, slots=True)
class Phase:
    """A rate for some time.

    Attributes:
        rate: Calls a second, at exponential intervals.
        seconds: How long.
    """

    rate: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Plan:
    """A load.

    Attributes:
        port: Of the server, on this machine.
        path: Of the method.
        messages: Requests, in rotation.
        replies: The recorded reply to each.
        phases: One after another.
        connections: Number of connections, in random order.
        timeout: Deadline of a call in seconds.
        metadata: Further headers of each call.
        throttling: Of the client; None for a client that sends every call.
        seed: Of the intervals.
    """

    port: int
    path: str
    messages: Sequence[bytes]
    replies: Sequence[bytes]
    phases: Sequence[Phase]
    connections: int
    timeout: float
    metadata: Sequence[tuple[str, str]] = ()
    throttling: Throttling | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Outcomes:
    """The ledger: one entry a call, in the order in which they were due.

    Attributes:
        due: float64, seconds since the start.
        ended: float64, seconds since the start; NaN for UNFINISHED.
        outcome: uint8, an Outcome each.
        lag: Seconds that the generator itself was late, at most.
    """

    due: npt.NDArray[np.float64]
    ended: npt.NDArray[np.float64]
    outcome: npt.NDArray[np.uint8]
    lag: float


async def run(plan: Plan, cores: str = LOAD_CORES) -> Outcomes:
    """Runs the plan in a process of its own.

    Raises:
        RuntimeError: The process failed.
    """
    process = await asyncio.create_subprocess_exec(
        *("taskset", "-c", cores, sys.executable, "-c", f"from {__name__} import main; main()"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate(pickle.dumps(plan))
    if process.returncode:
        raise RuntimeError("the open loop failed; its output above says why")
    outcomes = pickle.loads(output)
    assert isinstance(outcomes, Outcomes)
    return outcomes


class _Loop:
    """Sends the calls of a plan when they are due, and keeps their ledger."""

    def __init__(self, plan: Plan) -> None:
        rng = np.random.default_rng(plan.seed)
        due, start = [], 0.0
        for phase in plan.phases:
            intervals = rng.exponential(1 / phase.rate, int(phase.rate * phase.seconds * 1.5) + 100)
            times = start + np.cumsum(intervals)
            due.append(times[times < start + phase.seconds])
            start += phase.seconds
        self._due = np.concatenate(due)
        self._plan = plan
        self._chosen = rng.integers(plan.connections, size=len(self._due)).tolist()
        self.bodies = [grpc_message(each) for each in plan.messages]
        self._expected = [grpc_message(each) for each in plan.replies]
        self.streams: dict[int, int] = {}
        self.deadlines: list[float] = []
        self._ended = np.full(len(self._due), np.nan)
        self._outcome = np.zeros(len(self._due), np.uint8)

    def outcome_of(self, call: int, reply: bytearray | None) -> Outcome:
        """The outcome of a call whose stream has ended with this reply."""
        if reply is None:
            return Outcome.REFUSED
        return (
            Outcome.ANSWERED if reply == self._expected[call % len(self._expected)] else Outcome.OTHER_REPLY
        )

    def end(self, call: int, outcome: Outcome, now: float) -> None:
        self._outcome[call] = outcome
        self._ended[call] = now
        self.streams.pop(call, None)

    def run(self) -> Outcomes:
        """Runs the plan."""
        connections, selector = self._connect()
        start, count, sent, expired, lag = time.perf_counter() + 0.05, len(self._due), 0, 0, 0.0
        due = (self._due + start).tolist()
        self.deadlines = [time + self._plan.timeout for time in due]
        while expired < count:
            now = time.perf_counter()
            touched = set()
            if sent < count and due[sent] <= now:
                lag = max(lag, now - due[sent])
            while sent < count and due[sent] <= now:
                connection = connections[self._chosen[sent]]
                connection.add(sent, now)
                touched.add(connection)
                sent += 1
            while expired < sent and (self._outcome[expired] or self.deadlines[expired] <= now):
                if not self._outcome[expired]:
                    connections[self._chosen[expired]].expire(expired, now)
                    touched.add(connections[self._chosen[expired]])
                expired += 1
            flush(touched)
            next_due = due[sent] - now if sent < count else POLL
            _receive(selector, min(max(next_due, 0.0), POLL))
            # What was received may have freed streams; what a socket did not take may be left.
            flush(connection for connection in connections if connection.waiting or connection.out)
        return Outcomes(self._due, self._ended - start, self._outcome, lag)

    def _connect(self) -> "tuple[list[Connection], selectors.BaseSelector]":
        """Connects, and waits until the server's settings have arrived."""
        plan = self._plan
        headers = Headers(plan.path, f"127.0.0.1:{plan.port}", plan.metadata)
        connections = [
            Connection(
                plan.port,
                self,
                headers,
                None
                if plan.throttling is None
                else AdaptiveThrottle(plan.throttling, time.perf_counter, random.random),
            )
            for _ in range(plan.connections)
        ]
        selector = selectors.DefaultSelector()
        for connection in connections:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
        settled = time.perf_counter() + SETTLE
        while time.perf_counter() < settled:
            flush(connections)
            _receive(selector, 0.01)
        return connections, selector


def _receive(selector: selectors.BaseSelector, timeout: float) -> None:
    for key, _ in selector.select(timeout):
        key.data.receive()
        if not key.data.is_open:
            selector.unregister(key.fileobj)


def main() -> None:
    """Runs the plan on the standard input."""
    plan = pickle.load(sys.stdin.buffer)
    sys.stdout.buffer.write(pickle.dumps(_Loop(plan).run()))
