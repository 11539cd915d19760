"""`make bench`: Rank's throughput, latency and CPU beside a bare grpc.aio handler, in one run.

Each server has one core and the load the others. All get the same requests, in turns. The servers are started
several times, as two processes of the same code may differ by a tenth. The medians are reported. Every reply
is checked: completely by `animora-client bench`, and by its size under h2load, after the content of one was
checked.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

from rich.console import Console
from rich.table import Table

from animora_demo import SampleFeed, sample_feed
from animora_proto.ranking.v1 import ranking_pb2 as pb
from tests.benchmarks import h2load
from tests.benchmarks.load import CALLERS, Turn, in_turns, load, median
from tests.benchmarks.processes import Server, animora_server, bare_server
from tests.benchmarks.results import SERVING, update

STARTS = 3  # of the servers
ROUNDS = 3
SECONDS = 3
BODIES = 4  # requests that h2load repeats, on as many processes
BARE = "bare"
POLICIES = {
    "computed": pb.CACHE_POLICY_BYPASS,
    "cache hit": pb.CACHE_POLICY_DEFAULT,
    BARE: pb.CACHE_POLICY_BYPASS,
}

# Loads a side for some seconds: in a closed loop, or at a rate (calls a second).
Drive = Callable[[int, float | None], Awaitable[Turn]]


@dataclass(frozen=True, slots=True)
class Traffic:
    """The requests of the benchmark.

    Attributes:
        users: First and last user id; all are in the vocabulary.
        posts: First and last post id of the candidates.
        candidates: Number of candidates of each request.
        limit: Number of posts to return.
    """

    users: tuple[int, int] = (1, 1500)
    posts: tuple[int, int] = (1, 4000)
    candidates: int = 200
    limit: int = 10

    def options(self) -> tuple[str, ...]:
        """As options of `animora-client bench`."""
        return (
            *("--candidates", str(self.candidates), "--limit", str(self.limit), "--distinct", "500"),
            *("--users", "{}-{}".format(*self.users), "--posts", "{}-{}".format(*self.posts)),
        )

    def requests(self, policy: "pb.CachePolicy.ValueType") -> list[pb.RankRequest]:
        """BODIES requests."""
        rng = random.Random(0)
        first, last = self.posts
        return [
            pb.RankRequest(
                user_id=rng.randint(*self.users),
                post_ids=rng.sample(range(first, last + 1), self.candidates),
                limit=self.limit,
                cache_policy=policy,
            )
            for _ in range(BODIES)
        ]


@dataclass(frozen=True, slots=True)
class Measured:
    """Medians of a side at saturation and at half of that."""

    full: Turn
    half: Turn

    @classmethod
    def median(cls, several: Sequence[Self]) -> Self:
        """The median of each figure."""
        return cls(median([each.full for each in several]), median([each.half for each in several]))


async def run(out: Console) -> None:
    """Measures on the sample feed, prints the table and writes the JSON."""
    traffic = Traffic()
    async with sample_feed(Path(".bench"), out) as feed:
        starts = [await measure(out, feed, traffic, ROUNDS, SECONDS) for _ in range(STARTS)]
    update(
        SERVING,
        report(out, traffic, {name: Measured.median([each[name] for each in starts]) for name in POLICIES}),
    )
    out.print(f"written to {SERVING}")


async def measure(
    out: Console, feed: SampleFeed, traffic: Traffic, rounds: int, seconds: int, share: float = 0.5
) -> dict[str, Measured]:
    """Starts the servers and measures all sides in turns.

    Args:
        out: Prints progress.
        feed: The served feed.
        traffic: The requests.
        rounds: Number of turns of each side.
        seconds: Length of a turn.
        share: Share of a side's throughput at which its latency at half load is measured.
    """
    async with animora_server(server_options(feed), pinned=True) as animora, bare_server(pinned=True) as bare:
        sides = {
            name: await _drive_of(bare if name == BARE else animora, traffic, policy)
            for name, policy in POLICIES.items()
        }
        full = await in_turns(
            out, {name: partial(drive, seconds, None) for name, drive in sides.items()}, rounds
        )
        halves = {name: turn.throughput * share for name, turn in full.items()}
        half = await in_turns(
            out, {name: partial(drive, seconds, halves[name]) for name, drive in sides.items()}, rounds
        )
    return {name: Measured(full[name], half[name]) for name in sides}


def report(out: Console, traffic: Traffic, sides: Mapping[str, Measured]) -> dict[str, float | str]:
    """Prints the table; returns the figures that are stored."""
    bare = sides[BARE]
    generator = "h2load" if h2load.installed() else "animora-client bench"
    table = Table(
        title=f"Rank, {traffic.candidates} candidates, best {traffic.limit}; a server on one core, "
        f"{CALLERS} callers ({generator})"
    )
    for heading in ("side", "calls/s", "of bare", "CPU µs", "p50 ms", "p99 ms", "at half", "of bare"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, side in sides.items():
        table.add_row(
            *(name, f"{side.full.throughput:,.0f}", f"{side.full.throughput / bare.full.throughput:.2f}"),
            *(f"{side.full.cpu:.0f}", f"{side.full.p50:.2f}", f"{side.full.p99:.2f}"),
            *(f"{side.half.p99:.2f}", f"{side.half.p99 / bare.half.p99:.2f}"),
        )
    out.print(table)
    computed, hit = sides["computed"], sides["cache hit"]
    return {
        "unary_over_bare": round(computed.full.throughput / bare.full.throughput, 3),
        "hit_over_bare": round(hit.full.throughput / bare.full.throughput, 3),
        "p99_at_half_over_bare": round(computed.half.p99 / bare.half.p99, 2),
        "cpu_us_per_rank": round(computed.full.cpu, 1),
        "cpu_us_per_hit": round(hit.full.cpu, 1),
        "cpu_us_per_bare_call": round(bare.full.cpu, 1),
        "generator": generator,
    }


async def _drive_of(server: Server, traffic: Traffic, policy: "pb.CachePolicy.ValueType") -> Drive:
    if h2load.installed():
        recorded = await h2load.record_calls(server, traffic.requests(policy))

        async def by_h2load(seconds: int, rate: float | None) -> Turn:
            return await h2load.drive(server, recorded, seconds, h2load.Load(rate=rate))

        return by_h2load
    cache = "bypass" if policy == pb.CACHE_POLICY_BYPASS else "default"

    async def by_bench(seconds: int, rate: float | None) -> Turn:
        at_a_rate = () if rate is None else ("--rate", f"{rate:g}")
        return await load(server, seconds, "--cache", cache, *at_a_rate, *traffic.options())

    return by_bench


def server_options(feed: SampleFeed) -> dict[str, str]:
    """Options of the server, without the prefix."""
    return {
        "GRPC_DEFAULT_TIMEOUT": "10",  # no fallback to the heuristic on a busy machine
        "DATABASE_URL": feed.database_url,
        "CACHE_URL": feed.redis_url,
        "CACHE_TTL": "3600",
        "MODELS_STORE": str(feed.store),
        "MODELS_TRUSTED": "true",
        "MODELS_READY_REQUIRES_MODEL": "true",
    }


if __name__ == "__main__":
    asyncio.run(run(Console()))
