"""The command: a run in this process, with what people see of it and the status that it exits with."""

import asyncio
import signal

from rich.console import Console

from animora_artifact import ArtifactError
from animora_process.signals import ending_signals
from animora_server.errors import DeviceFault, GenerationGone, InvalidScores, StoreError
from animora_server.precompute.generation_store import RedisGenerations
from animora_server.precompute.job import RunObserver, RunOptions, run
from animora_server.precompute.progress import ProgressBar, summary_table
from animora_server.precompute.retrying_store import RetryingGenerationStore
from animora_server.precompute.summary import RunSummary
from animora_server.settings import Settings

CANCEL_INTERVAL = 0.5  # seconds; Python 3.11's wait_for, which redis-py uses, may lose a cancellation
# What a run cannot help; the generation stays as it is.
FAILURES = (StoreError, ArtifactError, DeviceFault, OSError)
RESUMABLE = "what is written stays, and the same command goes on from there"
SWAPPED = (
    "timelines are served from the new generation, and lists of the one before will expire by themselves"
)


async def run_in_redis(settings: Settings, options: RunOptions, observer: RunObserver) -> RunSummary:
    """A run into the Redis of the settings. Raises as `job.run` does."""
    async with RedisGenerations(settings.cache, settings.timeline, settings.precompute) as generations:
        return await run(settings, options, RetryingGenerationStore(generations), observer)


async def precompute(settings: Settings, options: RunOptions, out: Console, err: Console) -> int:
    """Makes the lists of a shard, shows how far it is, and says what it did.

    Args:
        settings: Where everything is.
        options: What is asked for.
        out: Takes the table.
        err: Takes the bar, and what went wrong.

    Returns:
        The exit status: 0, or 1 after a failure, or 128 and the number of a signal that came before the swap.

    Raises:
        ConfigurationError: What is asked for does not fit the generation being built, or cannot be had.
    """
    with ProgressBar(err) as bar:
        running = asyncio.create_task(run_in_redis(settings, options, bar))
        number = await _ended_or_signalled(running)
    if running.cancelled():
        name = signal.Signals(number).name
        if bar.has_swapped:
            err.print(f"stopped by {name}; {SWAPPED}")
            return 0
        err.print(f"stopped by {name}; {RESUMABLE}")
        return 128 + number
    try:
        summary = running.result()
    except (*FAILURES, GenerationGone, InvalidScores) as error:
        err.print(f"animora-server: {error_line(error)}", markup=False)
        return 1
    out.print(summary_table(summary, str(options.shard)))
    return 0


async def _ended_or_signalled(running: asyncio.Task[RunSummary]) -> int:
    """Waits for a run's end, which a signal brings about; the first signal's number, or 0."""
    loop = asyncio.get_running_loop()
    signalled: asyncio.Future[int] = loop.create_future()

    def receive(number: int) -> None:
        if not signalled.done():
            signalled.set_result(number)

    for number in ending_signals():
        loop.add_signal_handler(number, receive, number)
    await asyncio.wait((running, signalled), return_when=asyncio.FIRST_COMPLETED)
    while not running.done():
        running.cancel()
        await asyncio.wait((running,), timeout=CANCEL_INTERVAL)
    for number in ending_signals():
        loop.remove_signal_handler(number)
    return signalled.result() if signalled.done() else 0


def error_line(error: Exception) -> str:
    """What ended a run, in a line, as PyTorch's texts may have many, and what becomes of it."""
    line = " ".join(str(error).split())
    return f"{line}; {RESUMABLE}" if isinstance(error, FAILURES) else line
