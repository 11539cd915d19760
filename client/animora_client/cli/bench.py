"""`animora-client bench`: loads a server, checks every reply, and measures."""

import asyncio
import json as json_format
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import Annotated

from rich.console import Console
from rich.progress import Progress
from typer import BadParameter, Exit, Option

from animora_client.bench.connecting import connected
from animora_client.bench.driving import Arrivals, Driver, LoadPace, arrival_times
from animora_client.bench.output import as_json, as_table
from animora_client.bench.recorder import CallRecorder
from animora_client.bench.summary import summarise
from animora_client.bench.traffic import IdRange, RankTraffic, TimelineTraffic, Traffic, make_calls
from animora_client.cli.failures import print_error, print_errors_plainly
from animora_client.cli.options import ServerOptions
from animora_client.request import CachePolicy
from animora_client.wire import SERVICE

DEFAULT_CONCURRENCY = 16
PROGRESS_INTERVAL = 0.25  # seconds
_OUTPUT = {"dir_okay": False, "writable": True, "metavar": "FILE"}


@dataclass(frozen=True, slots=True)
class TrafficOptions:
    """The options of the calls."""

    users: Annotated[str, Option(metavar="LOW-HIGH", help="User ids to draw from.")] = "1-1000"
    posts: Annotated[str, Option(metavar="LOW-HIGH", help="Post ids to draw from.")] = "1-5000"
    candidates: Annotated[int, Option(help="Posts per request.", min=1, max=100_000)] = 200
    limit: Annotated[
        int,
        Option(
            help="Posts to return; 0 returns all, or the server's default page of a timeline.",
            min=0,
            max=2**31 - 1,
        ),
    ] = 0
    batch: Annotated[int, Option(help="Requests per BatchRank call; 0 calls Rank.", min=0, max=10_000)] = 0
    timeline: Annotated[
        bool, Option("--timeline", help="Call GetTimeline for first pages; needs no posts or candidates.")
    ] = False
    cache: Annotated[CachePolicy, Option(help="How requests use the server's cache.")] = CachePolicy.BYPASS
    distinct: Annotated[
        int, Option(help="Distinct calls, generated beforehand and sent in rotation.", min=1)
    ] = 1000
    seed: Annotated[int, Option(help="Seed of the generated calls.", min=0)] = 0

    def traffic(self) -> Traffic:
        """The traffic to generate.

        Raises:
            BadParameter: A range is invalid or too small, or options contradict each other.
        """
        if self.timeline and self.batch:
            raise BadParameter("--timeline cannot be combined with --batch.")
        try:
            users = IdRange.parse(self.users)
            if self.timeline:
                return TimelineTraffic(users, self.limit, self.cache, self.distinct, self.seed)
            return RankTraffic(
                users=users,
                posts=IdRange.parse(self.posts),
                candidates=self.candidates,
                batch=self.batch,
                limit=self.limit,
                cache_policy=self.cache,
                distinct=self.distinct,
                seed=self.seed,
            )
        except ValueError as error:
            raise BadParameter(f"--users, --posts, --candidates: {error}.") from None


@dataclass(frozen=True, slots=True)
class PaceOptions:
    """The options of the load: how fast and how long."""

    concurrency: Annotated[
        int | None,
        Option(
            help=f"Closed loop: number of callers, each waits for its reply (default {DEFAULT_CONCURRENCY}).",
            min=1,
            max=10_000,
        ),
    ] = None
    rate: Annotated[
        float | None,
        Option(help="Open loop: calls per second, however long replies take.", min=0.001, max=1e6),
    ] = None
    arrivals: Annotated[Arrivals, Option(help="How an open loop spaces its calls.")] = Arrivals.POISSON
    duration: Annotated[float, Option(help="Seconds to measure.", min=0.1, max=86_400)] = 10.0
    warmup: Annotated[float, Option(help="Seconds of warm-up before the measurement.", min=0, max=3600)] = 1.0
    max_calls: Annotated[int, Option(help="Calls at most, including the warm-up.", min=1, max=50_000_000)] = (
        5_000_000
    )
    connections: Annotated[int, Option(help="Connections to spread the calls over.", min=1, max=1000)] = 1

    def describe(self) -> str:
        """A description of the load."""
        if self.rate is not None:
            return f"{self.rate:g} calls/s ({self.arrivals} arrivals)"
        return f"{self.concurrency or DEFAULT_CONCURRENCY} callers"

    def pace(self) -> LoadPace:
        """How long the load lasts."""
        return LoadPace(self.duration, self.warmup, self.max_calls)


def bench(
    traffic: TrafficOptions,
    pace: PaceOptions,
    connection: ServerOptions,
    json: Annotated[Path | None, Option(help="Write the numbers as JSON.", **_OUTPUT)] = None,
    plot: Annotated[Path | None, Option(help="Draw latency and throughput as PNG.", **_OUTPUT)] = None,
) -> None:
    """Load a server with random requests, check every reply, and report throughput and latency.

    Ctrl-C ends the load early and reports the calls so far. The exit status is 1 if a call failed.
    """
    if pace.concurrency is not None and pace.rate is not None:
        raise BadParameter(
            "--concurrency (closed loop) cannot be combined with --rate (open loop): give one of them."
        )
    for file in (json, plot):
        if file is not None and not file.parent.is_dir():
            raise BadParameter(f"there is no folder {file.parent}.")
    load = traffic.traffic()
    recorder = CallRecorder(pace.warmup)
    try:
        with print_errors_plainly(connection.target):
            asyncio.run(_run_load(load, pace, connection, recorder))
    except KeyboardInterrupt:  # the recorder has the calls so far
        print_error("interrupted: reporting the calls so far")
    summary = summarise(recorder)
    title = f"{load.describe()}, {pace.describe()}, {connection.target}"
    Console(highlight=False).print(as_table(summary, title))
    if json is not None:
        server = {name: getattr(connection, name) for name in ("target", "timeout", "priority")}
        options = asdict(traffic) | asdict(pace) | server
        json.write_text(json_format.dumps(as_json(summary, options), indent=2) + "\n", encoding="utf-8")
    if plot is not None:
        from animora_client.bench.plot import draw  # noqa: PLC0415 - matplotlib is slow to import

        draw(summary, title, plot)
    if summary.failed or not summary.ok:
        raise Exit(1)


async def _run_load(
    load: Traffic, pace: PaceOptions, connection: ServerOptions, recorder: CallRecorder
) -> None:
    calls = make_calls(load)
    path = f"/{SERVICE}/{load.method}"
    async with connected(connection.connection(), path, pace.connections) as send:
        driver = Driver(send, calls, pace.pace(), recorder)
        progress = asyncio.create_task(_show_progress(pace.warmup + pace.duration))
        try:
            if pace.rate is None:
                await driver.closed_loop(pace.concurrency or DEFAULT_CONCURRENCY)
            else:
                await driver.open_loop(arrival_times(pace.arrivals, pace.rate, load.seed))
        finally:
            progress.cancel()


async def _show_progress(seconds: float) -> None:
    """Shows a progress bar on standard error, if it is a terminal, until cancelled."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("measuring", total=seconds)
        for _ in range(ceil(seconds / PROGRESS_INTERVAL)):
            await asyncio.sleep(PROGRESS_INTERVAL)
            progress.advance(task, PROGRESS_INTERVAL)
