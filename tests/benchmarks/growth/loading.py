"""Load time of a catalog with wide embeddings, and the time in which PostgreSQL alone sends it."""

import statistics
import time
from collections import defaultdict
from collections.abc import Sequence

import asyncpg
from pydantic import SecretStr
from rich.console import Console

from animora_demo.embedded import EmbeddedPostgres
from animora_server.catalog import Catalog
from animora_server.settings import CatalogSettings, DatabaseSettings
from animora_server.store import PostgresStore
from animora_server.store.queries import embeddings
from animora_server.store.refresh import Refresh
from tests.benchmarks.growth import databases
from tests.benchmarks.growth.server_load import Point
from tests.benchmarks.processes import Server

POSTS = 50_000
TYPES = ("real", "vector", "halfvec")


async def measure(
    out: Console, postgres: EmbeddedPostgres, types: Sequence[str], posts: int, rounds: int
) -> dict[str, Point]:
    """By type of the embeddings, medians of turns: posts a second, and CPU time a post of each side."""
    urls = {name: await databases.embedded(postgres, posts, name) for name in types}
    turns: dict[str, list[Point]] = defaultdict(list)
    for number in range(rounds + 1):
        for name, url in urls.items():
            seconds, cpu, postgres_cpu = await _loaded(url, posts)
            turn = {
                "posts_per_second": posts / seconds,
                "sent_per_second": posts / await _sent(url),
                "cpu_us_per_post": cpu / posts * 1e6,
                "postgres_cpu_us_per_post": postgres_cpu / posts * 1e6,
            }
            out.print(f"{name}: {turn['posts_per_second']:,.0f} posts/s")
            if number:
                turns[name].append(turn)
    return {
        name: {figure: statistics.median(turn[figure] for turn in several) for figure in several[0]}
        for name, several in turns.items()
    }


async def _loaded(url: str, posts: int) -> tuple[float, float, float]:
    """A load by the server's code: wall seconds, CPU seconds of this process and of PostgreSQL."""
    store = PostgresStore(DatabaseSettings(url=SecretStr(url)))
    began, cpu = time.perf_counter(), time.process_time()
    async with store.reading() as reading:
        refresh = Refresh(reading, Catalog.empty(None), CatalogSettings(), time.monotonic())
        snapshot = (await refresh.reconcile()).snapshot
        measured = (time.perf_counter() - began, time.process_time() - cpu, await _postgres_cpu(url))
    store.close()
    if len(snapshot) != posts or not snapshot.fingerprints.all() or snapshot.embeddings.image_width == 0:
        raise RuntimeError("the catalog is not what the database has")
    return measured


async def _postgres_cpu(url: str) -> float:
    """CPU seconds of the backend process of the store's connection."""
    connection = await asyncpg.connect(url)
    try:
        pid = await connection.fetchval(
            "select pid from pg_stat_activity"
            " where application_name = 'animora-server' and datname = current_database()"
        )
    finally:
        await connection.close()
    return Server("PostgreSQL", pid, port=0).cpu_seconds()


async def _sent(url: str) -> float:
    """Seconds to receive and discard the rows of the same query."""

    async def drop(_: bytes) -> None:
        pass

    connection = await asyncpg.connect(url)
    try:
        began = time.perf_counter()
        await connection.copy_from_query(embeddings().sql, output=drop, format="binary")
        return time.perf_counter() - began
    finally:
        await connection.close()
