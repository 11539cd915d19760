"""`make bench-overload`: answers in time while more calls come than the server can answer.

The server has one core. An open loop on another offers Ranks with a deadline at multiples of what the server
can answer, over a few and over many connections, from clients that send every call and from clients that
hold calls back as the shipped one does. The multiples come in turns. Each turn begins with a closed loop that
measures what the server can answer at that moment, and ends at half of that, to see how long calls still
fail.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from animora_client import Throttling
from animora_client.bench.plot import BLUE, ORANGE
from animora_demo import SampleFeed, sample_feed
from animora_proto.ranking.v1 import ranking_pb2 as pb
from tests.benchmarks import h2load, open_loop
from tests.benchmarks.http2_connection import Outcome
from tests.benchmarks.open_loop import Outcomes, Phase, Plan
from tests.benchmarks.processes import Server, animora_server
from tests.benchmarks.serving import Traffic, server_options

FACTORS = (0.5, 1.0, 2.0, 5.0, 10.0)
CONNECTIONS = (8, 300)
ROUNDS = 3
TIMEOUT = 0.5  # seconds
CALLERS = 64  # of the closed loop
RESULT, PICTURE = Path("docs/benchmarks/overload.json"), Path("docs/benchmarks/overload.png")


@dataclass(frozen=True, slots=True)
class Course:
    """What is measured; times in seconds.

    Attributes:
        factors: Multiples of what the server can answer.
        rounds: Turns of each side at each multiple.
        closed: Length of the closed loop.
        start: Of the overload, before it is measured.
        overload: Of the overload that is measured.
        after: Of the rest, at half of what the server can answer.
    """

    factors: Sequence[float] = FACTORS
    rounds: int = ROUNDS
    closed: int = 2
    start: float = 1.0
    overload: float = 3.0
    after: float = 3.0


@dataclass(frozen=True, slots=True)
class Side:
    """Which clients offer the load."""

    connections: int
    is_throttled: bool

    @property
    def name(self) -> str:
        """For tables and pictures."""
        clients = "shipped client" if self.is_throttled else "every call sent"
        return f"{self.connections} connections, {clients}"


@dataclass(frozen=True, slots=True)
class Turn:
    """What was seen at one multiple.

    Attributes:
        goodput: Answers by the model in time, of what the closed loop before it answered.
        p99_ms: Of those answers, from when the call was due.
        recovery_s: Until the last call that failed, after the load had fallen to half.
        outcomes: Share of the calls by outcome.
    """

    goodput: float
    p99_ms: float
    recovery_s: float
    outcomes: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def median(cls, turns: Sequence["Turn"]) -> "Turn":
        """The median of each figure."""
        outcomes = {
            name: round(median(turn.outcomes.get(name, 0.0) for turn in turns), 4)
            for name in sorted({name for turn in turns for name in turn.outcomes})
        }
        return cls(
            round(median(turn.goodput for turn in turns), 3),
            round(median(turn.p99_ms for turn in turns), 1),
            round(median(turn.recovery_s for turn in turns), 2),
            outcomes,
        )


Results = dict[Side, dict[float, Turn]]


async def run(out: Console) -> None:
    """Measures on the sample feed, prints the table, writes the JSON and the picture."""
    sides = [Side(connections, throttled) for throttled in (False, True) for connections in CONNECTIONS]
    async with sample_feed(Path(".bench"), out) as feed:
        results = await measure(out, feed, Traffic(), sides, Course())
    out.print(as_table(results))
    figures = summary(results)
    for name, value in figures.items():
        out.print(f"{name}: {value}")
    content = {**figures, "sides": {side.name: _rows(turns) for side, turns in results.items()}}
    write(content)
    draw(results, PICTURE)
    out.print(f"written to {RESULT} and {PICTURE}")


async def measure(
    out: Console,
    feed: SampleFeed,
    traffic: Traffic,
    sides: Sequence[Side],
    course: Course,
) -> Results:
    """Starts the server and measures all sides at all multiples in turns; the medians."""
    turns: dict[tuple[Side, float], list[Turn]] = defaultdict(list)
    async with animora_server(server_options(feed), pinned=True) as server:
        calls = await h2load.record_calls(server, traffic.requests(pb.CACHE_POLICY_BYPASS))
        for number in range(course.rounds):
            for factor in course.factors:
                for side in sides:
                    turn = await _turn(server, calls, side, factor, number, course)
                    turns[side, factor].append(turn)
                    out.print(f"round {number + 1}, {factor:g}x, {side.name}: {turn.goodput:.2f}")
    return {side: {factor: Turn.median(turns[side, factor]) for factor in course.factors} for side in sides}


async def _turn(
    server: Server,
    calls: Sequence[h2load.RecordedCall],
    side: Side,
    factor: float,
    seed: int,
    course: Course,
) -> Turn:
    closed = await h2load.drive(server, calls, course.closed, h2load.Load(callers=CALLERS))
    outcomes = await open_loop.run(
        Plan(
            port=server.port,
            path=h2load.PATH,
            messages=[call.message for call in calls],
            replies=[call.reply for call in calls],
            phases=(
                Phase(closed.throughput * factor, course.start + course.overload),
                Phase(closed.throughput / 2, course.after),
            ),
            connections=side.connections,
            timeout=TIMEOUT,
            throttling=Throttling() if side.is_throttled else None,
            seed=seed,
        )
    )
    return judge(outcomes, closed.throughput, course)


def judge(outcomes: Outcomes, capacity: float, course: Course) -> Turn:
    """The figures of a turn.

    Args:
        outcomes: The ledger.
        capacity: Calls a second that the server can answer.
        course: Of the turn.
    """
    end = course.start + course.overload
    measured = (outcomes.due >= course.start) & (outcomes.due < end)
    answered = measured & (outcomes.outcome == Outcome.ANSWERED)
    latencies = (outcomes.ended - outcomes.due)[answered]
    failed_after = outcomes.due[(outcomes.due >= end) & (outcomes.outcome != Outcome.ANSWERED)]
    count = max(measured.sum(), 1)
    return Turn(
        goodput=float(answered.sum() / course.overload / capacity),
        p99_ms=float(np.percentile(latencies, 99) * 1e3) if latencies.size else 0.0,
        recovery_s=float(failed_after.max() - end) if failed_after.size else 0.0,
        outcomes={
            kind.name.lower(): float((measured & (outcomes.outcome == kind)).sum() / count)
            for kind in Outcome
            if (measured & (outcomes.outcome == kind)).any()
        },
    )


def summary(results: Results) -> dict[str, float]:
    """The figures by which overload is judged: of the peak, the worse number of connections."""
    figures: dict[str, float] = {}
    for is_throttled, suffix in ((False, ""), (True, "_shipped_client")):
        sides = {side: turns for side, turns in results.items() if side.is_throttled == is_throttled}
        if not sides:
            continue
        for factor in (2.0, 10.0):
            shares = [
                turns[factor].goodput / max(turn.goodput for turn in turns.values())
                for turns in sides.values()
                if factor in turns
            ]
            if shares:
                figures[f"goodput_{factor:g}x{suffix}"] = round(min(shares), 3)
        recoveries = [turn.recovery_s for turns in sides.values() for turn in turns.values()]
        figures[f"recovery_s{suffix}"] = max(recoveries)
    return figures


def write(content: Mapping[str, object]) -> None:
    """Writes the JSON."""
    RESULT.write_text(json.dumps(content, indent=2) + "\n")


def as_table(results: Results) -> Table:
    """A row for each side and multiple."""
    table = Table(title=f"Ranks with {TIMEOUT:g} s to be answered, a server on one core")
    for heading in ("clients", "offered", "answered", "p99 ms", "recovery s", "outcomes"):
        table.add_column(heading, justify="left" if heading in ("clients", "outcomes") else "right")
    for side, turns in results.items():
        for factor, turn in turns.items():
            outcomes = ", ".join(
                f"{name} {share:.0%}" for name, share in turn.outcomes.items() if share >= 0.01
            )
            table.add_row(
                *(side.name, f"{factor:g}x", f"{turn.goodput:.2f}x", f"{turn.p99_ms:.0f}"),
                *(f"{turn.recovery_s:.2f}", outcomes),
            )
    return table


def draw(results: Results, path: Path) -> None:
    """Writes a PNG: answers in time and their latency by the offered load."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    goodput, latency = figure.subplots(1, 2)
    for side, turns in results.items():
        style = {
            "color": BLUE if side.connections == min(CONNECTIONS) else ORANGE,
            "linestyle": "--" if side.is_throttled else "-",
            "marker": "o",
            "markersize": 3,
        }
        goodput.plot(list(turns), [turn.goodput for turn in turns.values()], label=side.name, **style)
        latency.plot(list(turns), [turn.p99_ms for turn in turns.values()], label=side.name, **style)
    goodput.set(title="Answered in time by the model", ylabel="of what a closed loop gets", ylim=(0, None))
    latency.axhline(TIMEOUT * 1e3, color="0.6", linewidth=1)
    latency.set(title="p99 of these answers", ylabel="ms", ylim=(0, None))
    for axes in (goodput, latency):
        axes.set(xlabel="offered load, of the same", xscale="log")
        axes.set_xticks(FACTORS, [f"{factor:g}x" for factor in FACTORS])
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    goodput.legend(fontsize=7, frameon=False, handlelength=3)
    figure.savefig(path, dpi=150)


def _rows(turns: Mapping[float, Turn]) -> list[dict[str, object]]:
    return [{"offered": factor, **asdict(turn)} for factor, turn in turns.items()]


if __name__ == "__main__":
    asyncio.run(run(Console()))
