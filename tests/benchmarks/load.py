"""Runs `animora-client bench` against a server, and lets sides of a comparison take turns."""

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
    """Figures of one side in one round: calls a second, milliseconds, and CPU microseconds a call."""

    throughput: float
    p50: float
    p99: float
    cpu: float


async def load(server: Server, seconds: float, *options: str) -> Turn:
    """Loads a server by `animora-client bench`, which checks every reply: by CALLERS callers, or at a --rate.

    Raises:
        RuntimeError: A call failed, or a reply was wrong.
    """
    measured, turn = await bench(server, seconds, *(() if "--rate" in options else CALLERS_OPTION), *options)
    if measured["failed"]:
        raise RuntimeError(f"calls failed: {measured['failures']}, {measured['unsent']} were not sent")
    return turn


async def bench(server: Server, seconds: float, *options: str) -> tuple[dict[str, Any], Turn]:
    """Runs `animora-client bench`; returns its report, and the turn of the calls that succeeded.

    Raises:
        RuntimeError: No call succeeded.
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


def raise_failure(side: object, error: Exception) -> None:
    """Ends the comparison."""
    raise error


async def in_turns(
    out: Console,
    sides: Mapping[Side, Callable[[], Awaitable[Turn]]],
    rounds: int,
    failed: Callable[[Side, Exception], None] = raise_failure,
) -> dict[Side, Turn]:
    """Runs the sides in turns and returns the medians; a warm-up round precedes the others.

    Args:
        out: Prints progress.
        sides: Runs one turn of each side.
        rounds: Number of turns that count.
        failed: Called when a side fails; the side takes no further turn and is left out, unless this raises.
    """
    turns: dict[Side, list[Turn]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name in list(turns):
            try:
                turn = await sides[name]()
            except Exception as error:  # of any kind: it concerns that side alone
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
