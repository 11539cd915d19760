"""`make bench-timelines`: what a hit of a precomputed timeline costs, beside a bare grpc.aio handler.

Both get the same first pages of users 1 to 1,500 from the same generator, in turns; the medians of the turns
are reported. Every reply is checked by the generator. The database does not change meanwhile.
"""

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from animora_client import AsyncRankingClient, CacheStatus
from animora_demo import sample_feed
from tests.benchmarks.load import CALLERS, Turn, in_turns, load
from tests.benchmarks.processes import Server, animora_server, bare_server

ROUNDS = 5
SECONDS = 4.0
PAGE_SIZE = 20
PAGES = (
    "--timeline",
    "--cache",
    "default",
    "--users",
    "1-1500",
    "--distinct",
    "1500",
    "--limit",
    str(PAGE_SIZE),
)
RESULT = Path("docs/benchmarks/timelines.json")


async def run(out: Console) -> None:
    """Measures, prints the table and writes the JSON."""
    async with sample_feed(Path(".bench"), out) as feed:
        options = {
            "DATABASE_URL": feed.database_url,
            "CACHE_URL": feed.redis_url,
            "MODELS_STORE": str(feed.store),
            "MODELS_TRUSTED": "true",
            "MODELS_READY_REQUIRES_MODEL": "true",
            "TIMELINE_TOKEN_KEY": "only for the benchmark",
        }
        async with animora_server(options) as animora, bare_server() as bare:
            await precompute(options)
            await wait_for_generation(animora)
            sides = {"precomputed timeline": animora, "bare": bare}
            turns = {name: partial(load, server, SECONDS, *PAGES) for name, server in sides.items()}
            medians = await in_turns(out, turns, ROUNDS)
    report(out, medians)


async def wait_for_generation(server: Server) -> None:
    """Waits until the server serves the generation; before that a first page is a miss.

    Raises:
        RuntimeError: The server does not see it.
    """
    async with AsyncRankingClient(server.target, timeout=60) as client:
        for user in range(1501, 1601):
            if (await client.timeline_page(user)).cache is CacheStatus.HIT:
                return
            await asyncio.sleep(0.1)
    raise RuntimeError("the server does not see the precomputed timelines")


async def precompute(options: Mapping[str, str]) -> None:
    """Runs `animora-server precompute`.

    Raises:
        RuntimeError: The command failed.
    """
    environment = {f"ANIMORA_{name}": value for name, value in options.items()}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "animora_server", "precompute"), env={**os.environ, **environment}
    )
    if await process.wait():
        raise RuntimeError("precompute failed; its output above says why")


def report(out: Console, sides: dict[str, Turn]) -> None:
    """Prints the table and writes the JSON."""
    bare = sides["bare"]
    table = Table(title=f"First page of {PAGE_SIZE} posts, {CALLERS} callers; medians of {ROUNDS} turns")
    for heading in ("side", "calls/s", "p50 ms", "p99 ms", "CPU µs a call", "of bare"):
        table.add_column(heading, justify="right")
    for name, turn in sides.items():
        table.add_row(
            *(name, f"{turn.throughput:,.0f}", f"{turn.p50:.2f}", f"{turn.p99:.2f}"),
            *(f"{turn.cpu:.0f}", f"{turn.cpu / bare.cpu:.2f}"),
        )
    out.print(table)
    figures = {
        "timeline_hit_cpu_over_bare": round(sides["precomputed timeline"].cpu / bare.cpu, 3),
        "cpu_us_per_timeline_hit": round(sides["precomputed timeline"].cpu, 1),
        "cpu_us_per_bare_call": round(bare.cpu, 1),
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(figures, indent=2) + "\n")
    out.print(f"written to {RESULT}")


if __name__ == "__main__":
    asyncio.run(run(Console()))
