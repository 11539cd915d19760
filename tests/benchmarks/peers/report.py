"""The comparison as a table, ratios and a picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from rich.table import Table

from tests.benchmarks.load import Turn
from tests.benchmarks.peers.sides import BATCH, Side

BLUE, GREY = "#2a6fbb", "#9aa5b1"

RANK, BATCH_RANK = "Animora, Rank", "Animora, BatchRank"
MOSEC = "mosec"
GRPC_PEERS = ("PyTriton", "MLServer")


def batch_side(peer: str) -> str:
    """Name of the side of a peer with many users a call."""
    return f"{peer}, {BATCH.users} users a call"


@dataclass(frozen=True, slots=True)
class Figures:
    """Medians of a side: users ranked a second, and milliseconds of a call."""

    transport: str
    users_a_call: int
    callers: int
    ranks_per_second: float
    cpu_us_per_rank: float
    p50_ms: float
    p99_ms: float

    @classmethod
    def of(cls, side: Side, turn: Turn) -> "Figures":
        """Of a side and its median turn."""
        shape = side.shape
        return cls(
            *(side.transport, shape.users, shape.callers),
            ranks_per_second=turn.throughput * shape.users,
            cpu_us_per_rank=turn.cpu / shape.users,
            p50_ms=turn.p50,
            p99_ms=turn.p99,
        )

    def rounded(self) -> dict[str, float | str]:
        """The figures as they are stored."""
        return {
            "transport": self.transport,
            "users_a_call": self.users_a_call,
            "callers": self.callers,
            "ranks_per_second": round(self.ranks_per_second, 1),
            "cpu_us_per_rank": round(self.cpu_us_per_rank, 1),
            "p50_ms": round(self.p50_ms, 2),
            "p99_ms": round(self.p99_ms, 2),
        }


def as_table(sides: Mapping[str, Figures], title: str) -> Table:
    """A row for each side."""
    table = Table(title=title, box=None)
    for heading in ("", "over", "users", "ranks/s", "of\nmosec", "CPU µs\na rank", "p50\nms", "p99\nms"):
        table.add_column(heading, justify="right", no_wrap=True)
    mosec = sides.get(MOSEC)
    for name, side in sides.items():
        table.add_row(
            *(name, side.transport, str(side.users_a_call), f"{side.ranks_per_second:,.0f}"),
            f"{side.ranks_per_second / mosec.ranks_per_second:.2f}" if mosec else "",
            *(f"{side.cpu_us_per_rank:,.0f}", f"{side.p50_ms:.1f}", f"{side.p99_ms:.1f}"),
        )
    return table


def ratios(sides: Mapping[str, Figures]) -> dict[str, float]:
    """BatchRank's ranks a second over those of the measured peers."""
    batch = sides[BATCH_RANK].ranks_per_second
    others = {
        "batch_over_mosec": [MOSEC],
        "batch_over_mosec_batch": [batch_side(MOSEC)],
        "batch_over_grpc_peers": GRPC_PEERS,
    }
    return {
        key: round(batch / max(found), 2)
        for key, names in others.items()
        if (found := [sides[name].ranks_per_second for name in names if name in sides])
    }


def draw(sides: Mapping[str, Figures], title: str, file: Path) -> None:
    """Writes a PNG: a bar for each side, the fastest on top."""
    ordered = sorted(sides.items(), key=lambda side: side[1].ranks_per_second)
    figure = Figure(figsize=(8, 0.45 * len(ordered) + 1.2), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel="users ranked for a second")
    bars = axes.barh(
        [f"{name} ({side.transport})" for name, side in ordered],
        [side.ranks_per_second for _, side in ordered],
        color=[BLUE if name in {RANK, BATCH_RANK} else GREY for name, _ in ordered],
    )
    axes.bar_label(bars, [f"{side.ranks_per_second:,.0f}" for _, side in ordered], padding=4)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, format="png", dpi=120)
