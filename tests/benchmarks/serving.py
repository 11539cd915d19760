"""`make bench`: Rank's throughput and CPU beside a bare grpc.aio handler, in one run.

Both get the same requests from the same generator, in turns; the medians of the turns are reported.
Every reply is checked by the generator.
"""

import asyncio
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from animora_server.demo import sample_feed
from tests.benchmarks.load import CALLERS, Turn, load, median
from tests.benchmarks.processes import animora_server, bare_server

ROUNDS = 5
SECONDS = 4.0
CANDIDATES, LIMIT = 200, 10
RESULT = Path("docs/benchmarks/serving.json")


RANKS = (
    *("--candidates", str(CANDIDATES), "--limit", str(LIMIT)),
    *("--users", "1-1500", "--posts", "1-4000", "--distinct", "500"),
)


async def run(out: Console) -> None:
    """Measures, prints the table and writes the JSON."""
    async with (
        sample_feed(Path(".bench"), out) as feed,
        animora_server(
            {
                "DATABASE_URL": feed.database_url,
                "CACHE_URL": feed.redis_url,
                "CACHE_TTL": "3600",
                "MODELS_STORE": str(feed.store),
                "MODELS_READY_REQUIRES_MODEL": "true",
            }
        ) as animora,
        bare_server() as bare,
    ):
        sides = {"computed": (animora, "bypass"), "cache hit": (animora, "default"), "bare": (bare, "bypass")}
        turns: dict[str, list[Turn]] = {name: [] for name in sides}
        for number in range(ROUNDS + 1):
            for name, (server, cache) in sides.items():
                turn = await load(server, SECONDS if number else 2.0, "--cache", cache, *RANKS)
                if number:  # the first round warms up
                    turns[name].append(turn)
            out.print(f"round {number} of {ROUNDS}")
    report(out, {name: median(several) for name, several in turns.items()})


def report(out: Console, sides: dict[str, Turn]) -> None:
    """Prints the table and writes the JSON."""
    bare = sides["bare"]
    table = Table(
        title=f"Rank, {CANDIDATES} candidates, best {LIMIT}, {CALLERS} callers; medians of {ROUNDS} turns"
    )
    for heading in ("side", "calls/s", "of bare", "p50 ms", "p99 ms", "CPU µs a call", "of bare"):
        table.add_column(heading, justify="right")
    for name, turn in sides.items():
        table.add_row(
            *(name, f"{turn.throughput:,.0f}", f"{turn.throughput / bare.throughput:.2f}"),
            *(f"{turn.p50:.2f}", f"{turn.p99:.2f}", f"{turn.cpu:.0f}", f"{turn.cpu / bare.cpu:.2f}"),
        )
    out.print(table)
    figures = {
        "unary_over_bare": round(sides["computed"].throughput / bare.throughput, 3),
        "hit_over_bare": round(sides["cache hit"].throughput / bare.throughput, 3),
        "cpu_us_per_rank": round(sides["computed"].cpu, 1),
        "cpu_us_per_hit": round(sides["cache hit"].cpu, 1),
        "cpu_us_per_bare_call": round(bare.cpu, 1),
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(figures, indent=2) + "\n")
    out.print(f"written to {RESULT}")


if __name__ == "__main__":
    asyncio.run(run(Console()))
