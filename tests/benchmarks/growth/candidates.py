"""Rank by the number of candidates."""

from collections.abc import Sequence
from functools import partial

from rich.console import Console

from tests.benchmarks.growth.server_load import Point, load_server, traffic
from tests.benchmarks.load import in_turns
from tests.benchmarks.processes import Server

SIZES = (10, 100, 1000, 3000, 10_000)
CALLERS = 16  # more, with 10,000 candidates each, would exceed the pairs that the server admits


async def measure(
    out: Console, server: Server, posts: int, sizes: Sequence[int], rounds: int, seconds: float
) -> list[Point]:
    """For each number of candidates: the latency of one caller, and the server's CPU time with CALLERS."""
    sides = {
        (size, callers): partial(load_server, server, callers, seconds, *traffic(posts, size))
        for size in sizes
        for callers in (1, CALLERS)
    }
    turns = await in_turns(out, sides, rounds)
    return [
        {
            "candidates": size,
            "p50_ms": turns[size, 1].p50,
            "p99_ms": turns[size, 1].p99,
            "cpu_us_per_call": turns[size, CALLERS].cpu,
        }
        for size in sizes
    ]
