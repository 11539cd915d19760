"""`make bench-workers`: what a Rank costs with a worker a core, beside one process, in one run.

All servers have all cores, and share them with the load. Each worker gets the callers, connections and calls
a second that the one process gets. The CPU time is that of all processes of the server, the supervisor
included.
"""

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table

from animora_demo import SampleFeed, sample_feed
from animora_proto.ranking.v1 import ranking_pb2 as pb
from tests.benchmarks import h2load
from tests.benchmarks.load import CALLERS, Turn, in_turns
from tests.benchmarks.processes import ALL_CORES, CORES, animora_server
from tests.benchmarks.results import update
from tests.benchmarks.serving import Traffic, server_options

ROUNDS = 7
SECONDS = 4
SHARE = 0.3  # of the saturation of one process: with a worker on each of two cores there is room for the load
RESULT = Path("docs/benchmarks/workers.json")
ONE, GROUP, PINNED = "1", f"{CORES}", f"{CORES} pinned"
PROCESSES = {ONE: 1, GROUP: CORES, PINNED: CORES}


@dataclass(frozen=True, slots=True)
class Measured:
    """Medians of a side at the same load for each process, and at saturation."""

    steady: Turn
    full: Turn


async def run(out: Console) -> None:
    """Measures on the sample feed, prints the table and writes the JSON.

    Raises:
        SystemExit: h2load is not installed.
    """
    if not h2load.installed():
        sys.exit("h2load is not installed (Debian's package nghttp2-client has it)")
    async with sample_feed(Path(".bench"), out) as feed:
        update(RESULT, report(out, await measure(out, feed, Traffic(), ROUNDS, SECONDS)))
    out.print(f"written to {RESULT}")


async def measure(
    out: Console, feed: SampleFeed, traffic: Traffic, rounds: int, seconds: int
) -> dict[str, Measured]:
    """Measures one process and a worker a core, in turns."""
    options = server_options(feed)
    async with (
        animora_server(options) as alone,
        animora_server(options, workers=CORES) as group,
        animora_server({**options, "GRPC_PIN_WORKERS": "true"}, workers=CORES) as pinned,
    ):
        requests = traffic.requests(pb.CACHE_POLICY_BYPASS)
        servers = {
            name: (server, await h2load.record_calls(server, requests))
            for name, server in ((ONE, alone), (GROUP, group), (PINNED, pinned))
        }

        async def take_turns(rate: float | None) -> dict[str, Turn]:
            """Turns at `rate` calls a second for each process, or in a closed loop."""
            return await in_turns(
                out,
                {
                    name: partial(h2load.drive, server, recorded, seconds, _load(PROCESSES[name], rate))
                    for name, (server, recorded) in servers.items()
                },
                rounds,
            )

        full = await take_turns(None)
        steady = await take_turns(SHARE * full[ONE].throughput)
    return {name: Measured(steady[name], full[name]) for name in servers}


def _load(processes: int, rate: float | None) -> h2load.Load:
    """The load of one process, times the number of processes."""
    return h2load.Load(
        callers=CALLERS * processes,
        connections=h2load.CONNECTIONS * processes,
        rate=None if rate is None else rate * processes,
        cores=ALL_CORES,
    )


def report(out: Console, sides: Mapping[str, Measured]) -> dict[str, float]:
    """Prints the table; returns the figures that are stored."""
    one, group, pinned = (sides[name] for name in (ONE, GROUP, PINNED))
    table = Table(title="Rank: one process, and a worker a core, with the load among them")
    for heading in ("processes", "calls/s", "CPU µs", "of one", "p99 ms", "at most", "CPU µs", "of one"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, side in sides.items():
        table.add_row(
            *(name, f"{side.steady.throughput:,.0f}", f"{side.steady.cpu:.0f}"),
            *(f"{side.steady.cpu / one.steady.cpu:.2f}", f"{side.steady.p99:.1f}"),
            *(f"{side.full.throughput:,.0f}", f"{side.full.cpu:.0f}", f"{side.full.cpu / one.full.cpu:.2f}"),
        )
    out.print(table)
    return {
        "workers": CORES,
        "cpu_over_one_process": round(group.steady.cpu / one.steady.cpu, 3),
        "cpu_over_one_process_at_saturation": round(group.full.cpu / one.full.cpu, 3),
        "calls_a_second_over_one_process": round(group.full.throughput / one.full.throughput, 3),
        "pinned_cpu_over_one_process": round(pinned.steady.cpu / one.steady.cpu, 3),
        "pinned_cpu_over_one_process_at_saturation": round(pinned.full.cpu / one.full.cpu, 3),
        "cpu_us_per_rank": round(group.steady.cpu, 1),
        "cpu_us_per_rank_pinned": round(pinned.steady.cpu, 1),
        "cpu_us_per_rank_of_one_process": round(one.steady.cpu, 1),
    }


if __name__ == "__main__":
    asyncio.run(run(Console()))
