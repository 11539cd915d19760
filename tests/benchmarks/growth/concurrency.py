"""Goodput by the number of callers: answers by the model within the callers' deadline."""

import statistics
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from math import ceil

import numpy as np
from rich.console import Console

from animora_proto.ranking.v1 import ranking_pb2 as pb
from tests.benchmarks import h2load
from tests.benchmarks.growth.driving import LIMIT, Point, traffic
from tests.benchmarks.growth.version import USERS
from tests.benchmarks.load import bench
from tests.benchmarks.processes import Server
from tests.benchmarks.scraping import scrape
from tests.benchmarks.serving import Traffic

CALLERS = (1, 4, 16, 64, 256, 1000, 3000)
DEADLINES = (1.0, 0.5)  # seconds: the client's default, and the server's for callers who name none
RANKINGS = "animora_requests_total"
STREAMS = 50  # calls on one connection at most

# Answers in time and by the model a second, and milliseconds: p50 and p99.
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
    drive = await _drive_of(server, posts)
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


async def _drive_of(server: Server, posts: int) -> Drive:
    if not h2load.installed():
        return _by_our_own(server, posts)
    requests = Traffic((1, USERS), (1, posts), limit=LIMIT).requests(pb.CACHE_POLICY_BYPASS)
    return _by_h2load(server, await h2load.asked(server, requests))


def _by_our_own(server: Server, posts: int) -> Drive:
    async def drive(callers: int, deadline: float, seconds: int) -> Goodput:
        options = ("--concurrency", str(callers), "--timeout", str(deadline), *traffic(posts))
        measured, turn = await bench(server, seconds, *options)
        by_the_model = measured["rankers"].get("neucf", 0)
        return by_the_model / measured["measured_seconds"], turn.p50, turn.p99

    return drive


def _by_h2load(server: Server, requests: Sequence[h2load.Asked]) -> Drive:
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
        took = np.concatenate([came.took for came in replies])  # microseconds
        # HTTP does not tell an error from an answer, nor who answered: whatever the model did not answer may
        # have been in time.
        others = max(every - by_the_model, len(took) - by_the_model, 0)
        all_expected = all(came.all_are(asked, each) for asked, came in zip(some, replies, strict=True))
        if not others and took.max() <= deadline * 1e6 and not all_expected:
            raise RuntimeError("a reply was not the one expected")
        in_time = np.count_nonzero(took <= deadline * 1e6) - others
        p50, p99 = np.percentile(took, (50, 99)) / 1e3
        return max(in_time, 0) / seconds, float(p50), float(p99)

    return drive
