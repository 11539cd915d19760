"""The precompute command: a run in this process, with its progress, summary, signals and exit status."""

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
# Failures of the surroundings; the generation stays resumable.
FAILURES = (StoreError, ArtifactError, DeviceFault, OSError)
RESUMABLE = "the timelines written so far are kept; run the same command to resume"
SWAPPED = "the new generation is current; timelines of the previous one will expire"


async def run_in_redis(settings: Settings, options: RunOptions, observer: RunObserver) -> RunSummary:
    """Runs with the Redis of the settings. Raises as `job.run` does."""
    async with RedisGenerations(settings.cache, settings.timeline, settings.precompute) as generations:
        return await run(settings, options, RetryingGenerationStore(generations), observer)


async def precompute(settings: Settings, options: RunOptions, out: Console, err: Console) -> int:
    """Precomputes the timelines of a shard, with a progress bar, and prints a summary.

    Args:
        settings: The settings.
        options: The options of the run.
        out: For the summary table.
        err: For the progress bar and error messages.

    Returns:
        The exit status: 0; 1 after a failure; 128 plus the number of a signal received before the swap.

    Raises:
        ConfigurationError: The options do not fit the generation being built, or cannot be met.
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
    """Waits for the end of a run; a signal cancels it. Returns the first signal's number, or 0."""
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
    """The message of an error in one line (PyTorch's have several), and whether the run can be resumed."""
    line = " ".join(str(error).split())
    return f"{line}; {RESUMABLE}" if isinstance(error, FAILURES) else line
