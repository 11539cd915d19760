"""The command: a run in this process, with what people see of it and the status that it exits with."""

import asyncio
import signal

from rich.console import Console

from animora_artifact import ArtifactError
from animora_server.cache import RedisGenerations
from animora_server.errors import GenerationGone, ScoringFailed, StoreError
from animora_server.precompute.job import Order, RunWatch, run
from animora_server.precompute.patience import PatientGenerations
from animora_server.precompute.report import ProgressBar, summary_table
from animora_server.precompute.summary import Summary
from animora_server.settings import Settings

# What a run cannot help; the generation stays as it is.
FAILURES = (StoreError, ArtifactError, ScoringFailed, OSError)
GOES_ON = "what is written stays, and the same command goes on from there"


async def run_in_redis(settings: Settings, order: Order, watch: RunWatch) -> Summary:
    """A run into the Redis of the settings. Raises as `job.run` does."""
    async with RedisGenerations(settings.cache, settings.timeline, settings.precompute) as generations:
        return await run(settings, order, PatientGenerations(generations), watch)


async def precompute(settings: Settings, order: Order, out: Console, err: Console) -> int:
    """Makes the lists of a shard, shows how far it is, and says what it did.

    Args:
        settings: Where everything is.
        order: What is asked for.
        out: Takes the table.
        err: Takes the bar, and what went wrong.

    Returns:
        The exit status: 0, or 1 after a failure, or 128 and the signal's number.

    Raises:
        ConfigurationError: What is asked for does not fit the generation being built, or cannot be had.
    """
    signals: list[int] = []
    loop = asyncio.get_running_loop()
    with ProgressBar(err) as bar:
        running = asyncio.create_task(run_in_redis(settings, order, bar))

        def end(number: int) -> None:
            signals.append(number)
            running.cancel()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, end, number)
        await asyncio.wait((running,))
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    if running.cancelled():
        err.print(f"stopped by {signal.Signals(signals[0]).name}; {GOES_ON}")
        return 128 + signals[0]
    try:
        summary = running.result()
    except (*FAILURES, GenerationGone) as error:
        err.print(f"animora-server: {told(error)}", markup=False)
        return 1
    out.print(summary_table(summary, str(order.shard)))
    return 0


def told(error: Exception) -> str:
    """What ended a run, in a line, as PyTorch's texts may have many, and what becomes of it."""
    line = " ".join(str(error).split())
    return f"{line}; {GOES_ON}" if isinstance(error, FAILURES) else line
