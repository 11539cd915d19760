"""The generator of a benchmark: one side's turn under load, with the CPU time that its server took."""

import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from rich.console import Console

from tests.benchmarks.processes import Server

CALLERS = 32
CALLERS_OPTION = ("--concurrency", str(CALLERS))


@dataclass(frozen=True, slots=True)
class Turn:
    """One side's share of a round: calls a second, milliseconds, and CPU microseconds a call."""

    throughput: float
    p50: float
    p99: float
    cpu: float


async def load(server: Server, seconds: float, *options: str) -> Turn:
    """Runs `animora bench`, which checks every reply, against a server: CALLERS at once, or at a --rate.

    Raises:
        RuntimeError: A call failed, or a reply was wrong.
    """
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        before = server.cpu_seconds()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "from animora_client.cli import main; main()", "bench"),
            *("--target", server.target, *(() if "--rate" in options else CALLERS_OPTION), *options),
            *("--duration", str(seconds), "--warmup", "0", "--json", file.name),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"the load failed:\n{output.decode()}")
        measured = json.load(file)
    cpu = (server.cpu_seconds() - before) / measured["ok"]
    latency = measured["latency_seconds"]
    return Turn(measured["calls_per_second"], latency["p50"] * 1e3, latency["p99"] * 1e3, cpu * 1e6)


async def in_turns(
    out: Console, sides: Mapping[str, Callable[[], Awaitable[Turn]]], rounds: int
) -> dict[str, Turn]:
    """The medians of each side's turns; a round before the first warms up."""
    turns: dict[str, list[Turn]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, take_turn in sides.items():
            turn = await take_turn()
            if number:
                turns[name].append(turn)
        out.print(f"round {number} of {rounds}")
    return {name: median(several) for name, several in turns.items()}


def median(turns: list[Turn]) -> Turn:
    """The median of each figure."""
    names = ("throughput", "p50", "p99", "cpu")
    return Turn(*(statistics.median(getattr(turn, name) for turn in turns) for name in names))
