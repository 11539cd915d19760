"""Draws the curves."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from animora_client.bench.plot import BLUE, ORANGE
from tests.benchmarks.growth.candidates import CALLERS as RANK_CALLERS
from tests.benchmarks.growth.server_load import CANDIDATES, Point
from tests.benchmarks.growth.users import CALLERS as BATCH_CALLERS
from tests.benchmarks.load import CALLERS

HEIGHT = 3.6  # inches, of a row of panels 9 wide
MEGABYTE = 1e6


def candidates(points: Sequence[Point], path: Path) -> None:
    """Writes a PNG: Rank by the number of candidates."""
    figure, (latency, work) = _panels(2)
    _lines(latency, points, "candidates", {"p50": "p50_ms", "p99": "p99_ms"})
    latency.set(title="Rank, one caller", xlabel="candidates", ylabel="ms", yscale="log")
    _lines(work, points, "candidates", {f"{RANK_CALLERS} callers": "cpu_us_per_call"})
    work.set(title="The server's CPU time", xlabel="candidates", ylabel="µs a call", yscale="log")
    _finish(figure, path)


def users(points: Sequence[Point], path: Path) -> None:
    """Writes a PNG: BatchRank by the number of users."""
    figure, (latency, work) = _panels(2)
    _lines(latency, points, "users", {"p50": "p50_ms", "p99": "p99_ms"})
    latency.set(
        title=f"BatchRank, {CANDIDATES} candidates a user, one caller",
        xlabel="users in a batch",
        ylabel="ms",
        yscale="log",
    )
    _lines(work, points, "users", {f"{BATCH_CALLERS} callers": "cpu_us_per_user"})
    work.set(title="The server's CPU time", xlabel="users in a batch", ylabel="µs a user", ylim=(0, None))
    _finish(figure, path)


def catalog(points: Sequence[Point], path: Path) -> None:
    """Writes a PNG: Rank by the size of the catalog, and the server's memory."""
    figure, (latency, work, memory) = _panels(3)
    _lines(latency, points, "posts", {"p50": "p50_ms", "p99": "p99_ms"})
    latency.set(
        title=f"Rank, {CANDIDATES} candidates, one caller", xlabel="posts", ylabel="ms", ylim=(0, None)
    )
    _lines(work, points, "posts", {f"{CALLERS} callers, one core": "calls_per_second"})
    work.set(title="Throughput", xlabel="posts", ylabel="calls/s", ylim=(0, None))
    sizes = [point | {"megabytes": point["process_bytes"] / MEGABYTE} for point in points]
    _lines(memory, sizes, "posts", {"the whole process": "megabytes"})
    memory.set(title="Memory", xlabel="posts", ylabel="MB", ylim=(0, None), xscale="linear")
    most = points[-1]["posts"]
    memory.set_xticks([0, most / 2, most], [_short(place) for place in (0, most / 2, most)])
    _finish(figure, path)


def concurrency(points: Sequence[Point], path: Path) -> None:
    """Writes a PNG: goodput and latency by the number of callers."""
    figure, (goodput, latency) = _panels(2)
    deadlines = sorted({point["deadline_s"] for point in points}, reverse=True)
    for deadline, colour in zip(deadlines, (BLUE, ORANGE), strict=True):
        some = [point for point in points if point["deadline_s"] == deadline]
        _lines(goodput, some, "callers", {f"deadline {deadline:g} s": "goodput"}, (colour,))
    goodput.set(
        title="Goodput: responses by the model, in time", xlabel="callers", ylabel="calls/s", ylim=(0, None)
    )
    longest = [point for point in points if point["deadline_s"] == deadlines[0]]
    _lines(latency, longest, "callers", {"p50": "p50_ms", "p99": "p99_ms"})
    latency.set(title=f"Latency, deadline {deadlines[0]:g} s", xlabel="callers", ylabel="ms", yscale="log")
    _finish(figure, path)


def _panels(count: int) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(9, HEIGHT), layout="constrained")
    return figure, figure.subplots(1, count)


def _lines(
    axes: Axes,
    points: Sequence[Point],
    x: str,
    lines: dict[str, str],
    colours: Sequence[str] = (BLUE, ORANGE),
) -> None:
    """Draws figures of the points, by label; x is logarithmic, with a tick at each point."""
    places = [point[x] for point in points]
    for (label, figure), colour in zip(lines.items(), colours, strict=False):
        axes.plot(places, [point[figure] for point in points], "o-", label=label, color=colour, markersize=4)
    axes.set_xscale("log")
    axes.set_xticks(places, [_short(place) for place in places])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.3)
    axes.legend()


def _short(number: float) -> str:
    """1,000 as 1k and 2,000,000 as 2M."""
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:g}{name}"
    return f"{number:g}"


def _finish(figure: Figure, path: Path) -> None:
    for axes in figure.axes:
        axes.title.set_fontsize("medium")
        if axes.get_yscale() == "log":
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
    figure.savefig(path, format="png", dpi=120)
