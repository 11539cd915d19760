"""Goodput by the number of callers: responses by the model within the callers' deadline."""

import statistics
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from math import ceil

import numpy as np
from rich.console import Console

from animora_proto.ranking.v1 import ranking_pb2 as pb
from tests.benchmarks import h2load
from tests.benchmarks.growth.server_load import LIMIT, Point, traffic
from tests.benchmarks.growth.version import USERS
from tests.benchmarks.load import bench
from tests.benchmarks.processes import Server
from tests.benchmarks.scraping import scrape
from tests.benchmarks.serving import Traffic

CALLERS = (1, 4, 16, 64, 256, 1000, 3000)
DEADLINES = (1.0, 0.5)  # seconds: the defaults of the client, and of the server for calls without a deadline
RANKINGS = "animora_requests_total"
STREAMS = 50  # maximum number of calls on one connection

# Responses by the model in time, a second; p50 and p99 in milliseconds.
Goodput = tuple[float, float, float]
Drive = Callable[[int, float, int], Awaitable[Goodput]]  # callers, deadline, seconds


async def measure(
    out: Console,
    server: Server,
    posts: int,
    callers: Sequence[int],
    rounds: int,
    seconds: int,
) -> list[Point]:
    """For each number of callers and each deadline, medians of turns."""
    drive = await _new_drive(server, posts)
    turns: dict[tuple[float, int], list[Goodput]] = defaultdict(list)
    for number in range(rounds + 1):
        for deadline in DEADLINES:
            for count in callers:
                goodput = await drive(count, deadline, seconds)
                if number:
                    turns[deadline, count].append(goodput)
        out.print(f"round {number} of {rounds}")
    return [
        {"callers": count, "deadline_s": deadline}
        | {
            name: statistics.median(values)
            for name, values in zip(("goodput", "p50_ms", "p99_ms"), zip(*several, strict=True), strict=True)
        }
        for (deadline, count), several in turns.items()
    ]


async def _new_drive(server: Server, posts: int) -> Drive:
    if not h2load.installed():
        return _by_bench(server, posts)
    requests = Traffic((1, USERS), (1, posts), limit=LIMIT).requests(pb.CACHE_POLICY_BYPASS)
    return _by_h2load(server, await h2load.record_calls(server, requests))


def _by_bench(server: Server, posts: int) -> Drive:
    async def drive(callers: int, deadline: float, seconds: int) -> Goodput:
        options = ("--concurrency", str(callers), "--timeout", str(deadline), *traffic(posts))
        measured, turn = await bench(server, seconds, *options)
        by_the_model = measured["rankers"].get("neucf", 0)
        return by_the_model / measured["measured_seconds"], turn.p50, turn.p99

    return drive


def _by_h2load(server: Server, requests: Sequence[h2load.RecordedCall]) -> Drive:
    async def drive(callers: int, deadline: float, seconds: int) -> Goodput:
        some = requests[:callers]
        each = callers // len(some)
        connections = ceil(each / STREAMS)
        load = h2load.Load(each * len(some), connections, timeout=deadline)
        before = await scrape(server)
        replies = await h2load.flood(server, some, seconds, load)
        after = await scrape(server)
        every, by_the_model = (
            after.total(RANKINGS, **labels) - before.total(RANKINGS, **labels)
            for labels in ({}, {"ranker": "neucf"})
        )
        latencies = np.concatenate([reply.latencies for reply in replies])  # microseconds
        # HTTP tells neither errors nor the ranker: of the replies in time, all others may
        # be errors or come from the heuristic.
        others = max(every - by_the_model, len(latencies) - by_the_model, 0)
        all_expected = all(reply.match(call, each) for call, reply in zip(some, replies, strict=True))
        if not others and latencies.max() <= deadline * 1e6 and not all_expected:
            raise RuntimeError("a reply was not the one expected")
        in_time = np.count_nonzero(latencies <= deadline * 1e6) - others
        p50, p99 = np.percentile(latencies, (50, 99)) / 1e3
        return max(in_time, 0) / seconds, float(p50), float(p99)

    return drive
