"""Memory of timelines in Redis, by length and ids: `python -m tests.benchmarks.timeline_memory`."""

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

BATCH = 1000  # timelines
MILLION = 1_000_000
NOW = 1_800_000_000.0
VERSION = "20261123T194500Z-3f9a1c"
UINT32_SPAN, INT64_SPAN = 1 << 31, 1 << 62  # exclusive upper bounds of ids

GENERATION = Generation(bytes(range(16)), NOW, NOW, VERSION, "0" * 16, "0" * 16, 1)


@dataclass(frozen=True, slots=True)
class Measured:
    """Bytes of one timeline, on average."""

    value: float
    memory: float


async def measure(url: str, users: int, posts: int, span: int) -> Measured:
    """Stores the timelines of `users` users in an empty Redis, and reads its memory."""
    random = np.random.default_rng(posts)
    async with (
        redis.asyncio.from_url(url) as client,
        RedisGenerations(
            CacheSettings(url=SecretStr(url)), TimelineSettings(), PrecomputeSettings()
        ) as generations,
    ):
        await client.execute_command("FLUSHALL", "SYNC")  # frees all memory at once
        before = await client.info("memory")
        for start in range(0, users, BATCH):
            timelines = [
                (
                    timeline_key(10_000_000 + user, "0" * 16, include_seen=False),
                    random_timeline(random, posts, span),
                )
                for user in range(start, min(start + BATCH, users))
            ]
            await generations.put(GENERATION, timelines)
        after = await client.info("memory")
        value = await client.strlen(cast(bytes, await client.randomkey()))
    return Measured(value, (after["used_memory"] - before["used_memory"]) / users)


def random_timeline(random: np.random.Generator, posts: int, span: int) -> RankedTimeline:
    """A precomputed timeline with random ids below the span."""
    ids: IntArray = random.integers(0, span, posts)
    scores = np.sort(random.random(posts, dtype=np.float32))[::-1]
    return RankedTimeline(
        GENERATION.generation_id, ids, scores, RankerName.NEUCF, VERSION, NOW, NOW + 86_400, NOW
    )


async def compare(users: int) -> Table:
    """Measures timelines of the default length and of half of it, with small and with large ids."""
    table = Table(title=f"Timelines of {users:,} users in Redis")
    for column in ("max_posts", "ids", "bytes of a value", "memory of a timeline", "of a million users"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as directory:
        async with EmbeddedRedis(Path(directory)) as server:
            async with redis.asyncio.from_url(server.url) as client:
                await client.config_set("maxmemory", "0")
            for posts in (500, 250):
                for name, span in (("uint32", UINT32_SPAN), ("int64", INT64_SPAN)):
                    measured = await measure(server.url, users, posts, span)
                    table.add_row(
                        str(posts), name, f"{measured.value:,.0f}", f"{measured.memory:,.0f} B",
                        f"{measured.memory * MILLION / 1e9:.2f} GB",
                    )  # fmt: skip
    return table


def main(users: int = 20_000) -> None:
    """Measures the memory of timelines in Redis."""
    Console().print(asyncio.run(compare(users)))


if __name__ == "__main__":
    typer.run(main)
