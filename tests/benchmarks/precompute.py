"""`python -m tests.benchmarks.precompute`: users and pairs a second of a precompute.

In turns, in one process with the same threads: the whole precompute, and the scoring of the same pairs alone.
Medians of the turns are reported.
"""

import asyncio
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from animora_artifact import open_store
from animora_demo import SampleFeed, sample_feed
from animora_server.precompute.generation_store import RedisGenerations
from animora_server.precompute.job import NullObserver, RunOptions, run
from animora_server.precompute.load import load_catalog, load_scorer, window_at
from animora_server.precompute.rate_limiter import RateLimiter
from animora_server.precompute.scoring import WindowScorer, start_thread
from animora_server.precompute.summary import RunSummary
from animora_server.precompute.write import CHUNK_USERS
from animora_server.settings import Settings
from animora_server.store import PostgresStore

ROUNDS = 5
WINDOW_DAYS = 365.0  # all of the sample's posts are candidates


@dataclass(frozen=True, slots=True)
class Turn:
    """Figures of a round: pairs a second of scoring alone, and the precompute."""

    alone: float
    precompute: RunSummary


async def score_alone(feed: SampleFeed, settings: Settings) -> tuple[WindowScorer, np.ndarray, np.ndarray]:
    """The scorer of a run, the rows that it encoded, and the users in its vocabulary."""
    database = PostgresStore(settings.database)
    async with database.reading() as reading:
        snapshot = await load_catalog(reading, settings.catalog)
        users = await reading.users()
    database.close()
    window = window_at(snapshot, settings.timeline, time.time())
    models = open_store(str(feed.store))
    version = models.active()
    assert version is not None
    scorer = await load_scorer(models, version, window, settings.scorer, RateLimiter(0))
    return scorer, window.rows, users[scorer.user_rows(users) > 0]


def pairs_a_second(scorer: WindowScorer, rows: np.ndarray, users: np.ndarray, threads: int) -> float:
    """Scores every user with every post in chunks, and discards the scores."""
    chunks = [users[start : start + CHUNK_USERS] for start in range(0, len(users), CHUNK_USERS)]
    with ThreadPoolExecutor(threads, initializer=start_thread) as executor:
        began = time.perf_counter()
        list(executor.map(lambda chunk: scorer.score(scorer.user_rows(chunk), [rows] * len(chunk)), chunks))
        return len(users) * len(rows) / (time.perf_counter() - began)


async def measure(feed: SampleFeed, out: Console) -> None:
    """Measures in turns and prints the medians."""
    settings = feed.serving(Settings.model_validate({"timeline": {"window_days": WINDOW_DAYS}}))
    scorer, rows, users = await score_alone(feed, settings)
    threads = settings.precompute.workers
    turns = []
    for number in range(ROUNDS + 1):
        alone = pairs_a_second(scorer, rows, users, threads)
        async with RedisGenerations(settings.cache, settings.timeline, settings.precompute) as generations:
            turn = Turn(alone, await run(settings, RunOptions(), generations, NullObserver()))
        if number:  # the first round warms up
            turns.append(turn)
    report(out, turns, threads)


def report(out: Console, turns: list[Turn], threads: int) -> None:
    """Prints medians."""

    def median(*values: float) -> float:
        return statistics.median(values)

    totals = turns[0].precompute.totals
    busy = median(*(turn.precompute.seconds for turn in turns)) * threads
    title = (
        f"{totals.ranked:,} users, {totals.pairs:,} pairs, {threads} threads; medians of {len(turns)} turns"
    )
    table = Table(title=title, show_header=False)
    for name, value in (
        ("users/s", median(*(turn.precompute.totals.ranked / turn.precompute.seconds for turn in turns))),
        ("pairs/s", median(*(turn.precompute.totals.pairs / turn.precompute.seconds for turn in turns))),
        ("pairs/s, scoring alone", median(*(turn.alone for turn in turns))),
    ):
        table.add_row(name, f"{value:,.0f}")
    for name in ("scoring", "ordering", "writing"):
        seconds = median(*(getattr(turn.precompute.totals, name) for turn in turns))
        table.add_row(f"{name}, of the threads' time", f"{seconds / busy:.0%}")
    out.print(table)


async def main(out: Console) -> None:
    """Measures on the sample feed, which is created if it does not exist."""
    async with sample_feed(Path(".bench"), out) as feed:
        await measure(feed, out)


if __name__ == "__main__":
    asyncio.run(main(Console()))
