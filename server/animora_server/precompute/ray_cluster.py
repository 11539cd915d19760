"""The shards of a generation as tasks on a Ray cluster; Ray is imported here alone, and late."""

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
# Ray runs a task again whose process or node has gone: a shard goes on where it was.
RETRIES = 3
SIGNAL_INTERVAL = 0.2  # seconds between looks for a signal: a handler must not raise inside of Ray


@dataclass(frozen=True, slots=True)
class ShardOutcome:
    """What became of a shard: a summary, or the words for why there is none."""

    shard: Shard
    summary: RunSummary | None = None
    failure: str = ""


def run_shard(settings: Settings, options: RunOptions) -> ShardOutcome:
    """One shard, in a process of Ray's; an error travels as words, since not every one can be pickled."""
    configure_logs(settings.log.level, settings.log.format)
    try:
        return ShardOutcome(options.shard, asyncio.run(run_in_redis(settings, options, NullObserver())))
    except (AnimoraError, *FAILURES) as error:
        return ShardOutcome(options.shard, failure=error_line(error))


def precompute_on_ray(
    settings: Settings, options: RunOptions, address: str, out: Console, err: Console
) -> int:
    """Makes the lists of all shards on a cluster.

    Args:
        settings: Where everything is, as seen from the cluster.
        options: What is asked for; a task for each of as many shards as its shard is one of.
        address: The cluster's, as `ray.init` takes it; "local" starts one on this machine.
        out: Takes the table.
        err: Takes the bar, and what went wrong.

    Returns:
        The exit status: 0, or 1 after a failure, or 128 and the signal's number.

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
        # A shard that was just about to tell of the swap may have been stopped, too.
        name = signal.Signals(signals[0]).name
        err.print(f"stopped by {name}; {RESUMABLE}, unless all of it is served already")
        return 128 + signals[0]
    if done:
        out.print(summary_table(merge_summaries(done, seconds), f"{len(done)} of {count}, on Ray"))
    for outcome in outcomes:
        if outcome.failure:
            err.print(f"animora-server: shard {outcome.shard}: {outcome.failure}", markup=False)
    return 0 if len(done) == count else 1


@contextmanager
def _cluster(ray: Any, address: str, settings: Settings) -> Iterator[list[int]]:
    """Joins a cluster, or starts one here, and leaves it or ends it; gives the signals that come."""
    options: dict[str, Any] = {}
    if address == LOCAL:
        # A task asks for a core a thread; on a machine with fewer it would wait for ever.
        cores = max(settings.precompute.workers, os.cpu_count() or 1)
        options = {"include_dashboard": False, "num_cpus": cores}
    try:
        ray.init(address=address, logging_level="warning", **options)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigurationError(f"--ray {address}: {error}") from error
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):  # after Ray, which has handlers of its own
        signal.signal(number, lambda number, _: signals.append(number))
    try:
        yield signals
    finally:
        ray.shutdown()


def _run_all(
    ray: Any, settings: Settings, options_by_shard: Sequence[RunOptions], signals: Sequence[int], err: Console
) -> list[ShardOutcome]:
    """Runs a task for each order until all have ended or a signal came, and tells of each that ends."""
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
    except ray.exceptions.RayError as error:  # its process died again and again
        return ShardOutcome(shard, failure=f"Ray: {type(error).__name__}; {RESUMABLE}")
    return outcome


async def _abandon_unfinished(settings: Settings) -> None:
    async with RedisGenerations(settings.cache, settings.timeline, settings.precompute) as generations:
        await abandon_unfinished(generations)
