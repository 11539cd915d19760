"""Rank by the number of posts in the catalog, and the memory of a post."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from rich.console import Console

from animora_demo.embedded import EmbeddedPostgres
from tests.benchmarks.growth import databases
from tests.benchmarks.growth.server_load import Point, load_server, serving, traffic
from tests.benchmarks.load import CALLERS, in_turns
from tests.benchmarks.processes import Server
from tests.benchmarks.scraping import scrape

SIZES = (10_000, 100_000, 500_000, 2_000_000)
POLLS = 5.0  # seconds without load, in which polls are timed


async def measure(
    out: Console,
    postgres: EmbeddedPostgres,
    store: Path,
    sizes: Sequence[int],
    rounds: int,
    seconds: float,
) -> list[Point]:
    """For each number of posts; all servers run at once, and are loaded in turns."""
    async with AsyncExitStack() as stack:
        servers, ready = {}, {}
        for size in sizes:
            url = await databases.served(postgres, size)
            began = time.perf_counter()
            servers[size] = await stack.enter_async_context(serving(url, store))
            ready[size] = time.perf_counter() - began
            out.print(f"{size:,} posts are served after {ready[size]:.1f} s")
        polls = await asyncio.gather(*(_seconds_a_poll(server) for server in servers.values()))
        sides = {
            (size, callers): partial(load_server, server, callers, seconds, *traffic(size))
            for size, server in servers.items()
            for callers in (1, CALLERS)
        }
        turns = await in_turns(out, sides, rounds)
        return [
            {
                "posts": size,
                "p50_ms": turns[size, 1].p50,
                "p99_ms": turns[size, 1].p99,
                "calls_per_second": turns[size, CALLERS].throughput,
                "cpu_us_per_call": turns[size, CALLERS].cpu,
                "ready_s": ready[size],
                "poll_ms": poll * 1e3,
                "catalog_bytes_per_post": (await scrape(server)).total("animora_catalog_bytes") / size,
                "process_bytes": server.anonymous_bytes(),
            }
            for (size, server), poll in zip(servers.items(), polls, strict=True)
        ]


async def _seconds_a_poll(server: Server) -> float:
    before = await scrape(server)
    await asyncio.sleep(POLLS)
    after = await scrape(server)
    name = "animora_catalog_refresh_seconds"
    took, count = (
        after.total(f"{name}_{what}") - before.total(f"{name}_{what}") for what in ("sum", "count")
    )
    return took / count
