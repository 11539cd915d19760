"""The generator of a benchmark: one side's turn under load, with the CPU time that its server took."""

import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from rich.console import Console

from tests.benchmarks.processes import Server

Side = TypeVar("Side")

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
    """Loads a server by `animora-client bench`, which checks every reply: CALLERS at once, or at a --rate.

    Raises:
        RuntimeError: A call failed, or a reply was wrong.
    """
    measured, turn = await bench(server, seconds, *(() if "--rate" in options else CALLERS_OPTION), *options)
    if measured["failed"]:
        raise RuntimeError(f"calls failed: {measured['failures']}, {measured['unsent']} were not sent")
    return turn


async def bench(server: Server, seconds: float, *options: str) -> tuple[dict[str, Any], Turn]:
    """What `animora-client bench` measures, calls that failed included, and the turn of those that did not.

    Raises:
        RuntimeError: It measured nothing.
    """
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        before = server.cpu_seconds()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", "from animora_client.cli import main; main()", "bench"),
            *("--target", server.target, *options),
            *("--duration", str(seconds), "--warmup", "0", "--json", file.name),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        text = file.read()
    measured = json.loads(text) if text else {}
    if not measured.get("ok"):
        raise RuntimeError(f"the load failed:\n{output.decode()}")
    cpu = (server.cpu_seconds() - before) / measured["ok"]
    latency = measured["latency_seconds"]
    turn = Turn(measured["calls_per_second"], latency["p50"] * 1e3, latency["p99"] * 1e3, cpu * 1e6)
    return measured, turn


def refuse(side: object, error: Exception) -> None:
    """Lets no side fail."""
    raise error


async def in_turns(
    out: Console,
    sides: Mapping[Side, Callable[[], Awaitable[Turn]]],
    rounds: int,
    failed: Callable[[Side, Exception], None] = refuse,
) -> dict[Side, Turn]:
    """The medians of each side's turns; a round before the first warms up.

    Args:
        out: Where it says how far it is.
        sides: What takes a turn of each.
        rounds: Turns that count.
        failed: Is told of a side that failed, which takes no further turn and is left out; or raises.
    """
    turns: dict[Side, list[Turn]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name in list(turns):
            try:
                turn = await sides[name]()
            except Exception as error:  # whatever it is, it is that side's
                failed(name, error)
                del turns[name]
                continue
            if number:
                turns[name].append(turn)
        out.print(f"round {number} of {rounds}")
    return {name: median(several) for name, several in turns.items()}


def median(turns: list[Turn]) -> Turn:
    """The median of each figure."""
    names = ("throughput", "p50", "p99", "cpu")
    return Turn(*(statistics.median(getattr(turn, name) for turn in turns) for name in names))
