"""Runs the shards of a generation as tasks on a Ray cluster. Ray is imported only here, and only on use."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from animora_server.errors import AnimoraError, ConfigurationError, StoreError
from animora_server.logs import configure_logs
from animora_server.precompute.command import FAILURES, RESUMABLE, error_line, run_in_redis
from animora_server.precompute.generation_store import RedisGenerations
from animora_server.precompute.job import NullObserver, RunOptions
from animora_server.precompute.plan import abandon_unfinished
from animora_server.precompute.progress import summary_table
from animora_server.precompute.shard import Shard
from animora_server.precompute.summary import RunSummary, merge_summaries
from animora_server.settings import Settings

LOCAL = "local"
# Ray retries a task whose process or node is lost; the shard resumes.
RETRIES = 3
SIGNAL_INTERVAL = 0.2  # seconds between checks for a signal: a handler must not raise inside Ray


@dataclass(frozen=True, slots=True)
class ShardOutcome:
    """The result of a shard: a summary, or else the failure's message."""

    shard: Shard
    summary: RunSummary | None = None
    failure: str = ""


def run_shard(settings: Settings, options: RunOptions) -> ShardOutcome:
    """Runs one shard in a Ray process. An error is returned as its message: some errors cannot be pickled."""
    configure_logs(settings.log.level, settings.log.format)
    try:
        return ShardOutcome(options.shard, asyncio.run(run_in_redis(settings, options, NullObserver())))
    except (AnimoraError, *FAILURES) as error:
        return ShardOutcome(options.shard, failure=error_line(error))


def precompute_on_ray(
    settings: Settings, options: RunOptions, address: str, out: Console, err: Console
) -> int:
    """Precomputes the timelines of all shards on a cluster, and prints a summary.

    Args:
        settings: The settings; URLs and paths are resolved on the cluster.
        options: The options. `options.shard.count` is the number of shards, one task each.
        address: The cluster's address, as `ray.init` takes it; "local" starts a cluster on this machine.
        out: For the summary table.
        err: For the progress bar and error messages.

    Returns:
        The exit status: 0; 1 after a failure; 128 plus the number of a signal.

    Raises:
        ConfigurationError: Ray is not installed, or the cluster cannot be reached.
    """
    try:
        import ray  # noqa: PLC0415  # optional, and takes a second
    except ImportError as error:
        raise ConfigurationError("--ray needs Ray: pip install 'animora-ranking[ray]'") from error
    count = options.shard.count
    options_by_shard = [replace(options, shard=Shard(index, count), restart=False) for index in range(count)]
    if options.restart:
        try:
            asyncio.run(_abandon_unfinished(settings))
        except StoreError as error:
            err.print(f"animora-server: {error_line(error)}", markup=False)
            return 1
    with _cluster(ray, address, settings) as signals:
        began = time.perf_counter()
        outcomes = _run_all(ray, settings, options_by_shard, signals, err)
        seconds = time.perf_counter() - began
    done = [outcome.summary for outcome in outcomes if outcome.summary]
    if signals and not any(summary.current for summary in done):
        # The shard that swapped may have been stopped before it returned its summary.
        name = signal.Signals(signals[0]).name
        err.print(f"stopped by {name}; {RESUMABLE}, unless the generation is already served")
        return 128 + signals[0]
    if done:
        out.print(summary_table(merge_summaries(done, seconds), f"{len(done)} of {count}, on Ray"))
    for outcome in outcomes:
        if outcome.failure:
            err.print(f"animora-server: shard {outcome.shard}: {outcome.failure}", markup=False)
    return 0 if len(done) == count else 1


@contextmanager
def _cluster(ray: Any, address: str, settings: Settings) -> Iterator[list[int]]:
    """Connects to a cluster, or starts a local one. Yields a list that grows by each signal received."""
    options: dict[str, Any] = {}
    if address == LOCAL:
        # A task reserves a core for each thread; with fewer cores it would wait forever.
        cores = max(settings.precompute.workers, os.cpu_count() or 1)
        options = {"include_dashboard": False, "num_cpus": cores}
    try:
        ray.init(address=address, logging_level="warning", **options)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigurationError(f"--ray {address}: {error}") from error
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):  # after ray.init, which installs handlers
        signal.signal(number, lambda number, _: signals.append(number))
    try:
        yield signals
    finally:
        ray.shutdown()


def _run_all(
    ray: Any, settings: Settings, options_by_shard: Sequence[RunOptions], signals: Sequence[int], err: Console
) -> list[ShardOutcome]:
    """Runs a task for each shard until all have ended or a signal is received."""
    resources = {
        "num_cpus": settings.precompute.workers,
        "num_gpus": 1 if settings.scorer.device.startswith("cuda") else 0,
    }
    task = ray.remote(**resources, max_retries=RETRIES)(run_shard)
    shards = {task.remote(settings, options): options.shard for options in options_by_shard}
    waiting = list(shards)
    outcomes = []
    with Progress(
        TextColumn("shards"), BarColumn(), MofNCompleteColumn(), console=err, disable=not err.is_terminal
    ) as progress:
        bar = progress.add_task("shards", total=len(shards))
        while waiting and not signals:
            ended, waiting = ray.wait(waiting, timeout=SIGNAL_INTERVAL)
            for reference in ended:
                outcomes.append(_outcome(ray, reference, shards[reference]))
                progress.advance(bar)
    return outcomes


def _outcome(ray: Any, reference: Any, shard: Shard) -> ShardOutcome:
    try:
        outcome: ShardOutcome = ray.get(reference)
    except ray.exceptions.RayError as error:  # the process died in every attempt
        return ShardOutcome(shard, failure=f"Ray: {type(error).__name__}; {RESUMABLE}")
    return outcome


async def _abandon_unfinished(settings: Settings) -> None:
    async with RedisGenerations(settings.cache, settings.timeline, settings.precompute) as generations:
        await abandon_unfinished(generations)
