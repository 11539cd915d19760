"""BatchRank by the number of users in a batch."""

from collections.abc import Sequence
from functools import partial

from rich.console import Console

from tests.benchmarks.growth.server_load import Point, load_server, traffic
from tests.benchmarks.load import in_turns
from tests.benchmarks.processes import Server

SIZES = (1, 4, 16, 64, 256)
CALLERS = 4  # keep the server busy, whatever a batch's size


async def measure(
    out: Console, server: Server, posts: int, sizes: Sequence[int], rounds: int, seconds: float
) -> list[Point]:
    """For each number of users: the latency of one caller, and the server's CPU time with CALLERS."""
    sides = {
        (size, callers): partial(
            load_server,
            server,
            callers,
            seconds,
            *traffic(posts, distinct=max(1, 1000 // size)),
            *("--batch", str(size)),
        )
        for size in sizes
        for callers in (1, CALLERS)
    }
    turns = await in_turns(out, sides, rounds)
    return [
        {
            "users": size,
            "p50_ms": turns[size, 1].p50,
            "p99_ms": turns[size, 1].p99,
            "cpu_us_per_user": turns[size, CALLERS].cpu / size,
        }
        for size in sizes
    ]
