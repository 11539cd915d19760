"""What timelines take in Redis, by length and ids: `python -m tests.benchmarks.timeline_memory`."""

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import redis.asyncio
import typer
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from animora_demo.embedded import EmbeddedRedis
from animora_server.precompute.generation_store import RedisGenerations
from animora_server.settings import CacheSettings, PrecomputeSettings, TimelineSettings
from animora_server.timeline.store import timeline_key
from animora_server.types import Generation, IntArray, RankedTimeline, RankerName

BATCH = 1000  # lists
MILLION = 1_000_000
NOW = 1_800_000_000.0
VERSION = "20261123T194500Z-3f9a1c"
NEAR, FAR = 1 << 31, 1 << 62  # within which ids lie

GENERATION = Generation(bytes(range(16)), NOW, NOW, VERSION, "0" * 16, "0" * 16, 1)


@dataclass(frozen=True, slots=True)
class Measured:
    """Bytes of one timeline, on average."""

    value: float
    memory: float


async def measure(url: str, users: int, posts: int, span: int) -> Measured:
    """Stores the timelines of so many users in an empty Redis, and asks it what they take."""
    random = np.random.default_rng(posts)
    async with (
        redis.asyncio.from_url(url) as client,
        RedisGenerations(
            CacheSettings(url=SecretStr(url)), TimelineSettings(), PrecomputeSettings()
        ) as generations,
    ):
        await client.execute_command("FLUSHALL", "SYNC")  # or the one before is still being freed
        before = await client.info("memory")
        for start in range(0, users, BATCH):
            lists = [
                (
                    timeline_key(10_000_000 + user, "0" * 16, include_seen=False),
                    make_list(random, posts, span),
                )
                for user in range(start, min(start + BATCH, users))
            ]
            await generations.put(GENERATION, lists)
        after = await client.info("memory")
        value = await client.strlen(cast(bytes, await client.randomkey()))
    return Measured(value, (after["used_memory"] - before["used_memory"]) / users)


def make_list(random: np.random.Generator, posts: int, span: int) -> RankedTimeline:
    """A user's list, precomputed, with ids somewhere within the span."""
    ids: IntArray = random.integers(0, span, posts)
    scores = np.sort(random.random(posts, dtype=np.float32))[::-1]
    return RankedTimeline(
        GENERATION.generation_id, ids, scores, RankerName.NEUCF, VERSION, NOW, NOW + 86_400, NOW
    )


async def compare(users: int) -> Table:
    """Measures lists of the default length and of half of it, with near ids and with far ones."""
    table = Table(title=f"Timelines of {users:,} users in Redis")
    for column in ("max_posts", "ids", "bytes of a value", "memory of a timeline", "of a million users"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as directory:
        async with EmbeddedRedis(Path(directory)) as server:
            async with redis.asyncio.from_url(server.url) as client:
                await client.config_set("maxmemory", "0")
            for posts in (500, 250):
                for name, span in (("uint32", NEAR), ("int64", FAR)):
                    measured = await measure(server.url, users, posts, span)
                    table.add_row(
                        str(posts), name, f"{measured.value:,.0f}", f"{measured.memory:,.0f} B",
                        f"{measured.memory * MILLION / 1e9:.2f} GB",
                    )  # fmt: skip
    return table


def main(users: int = 20_000) -> None:
    """Measures what timelines take in Redis."""
    Console().print(asyncio.run(compare(users)))


if __name__ == "__main__":
    typer.run(main)
