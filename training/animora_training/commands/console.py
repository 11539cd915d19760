"""Output of the command line: results, progress bars, and errors without a traceback."""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from animora_artifact import ArtifactError
from animora_training.errors import InvalidOption, PeerFailed, TrainingError, WorseThanActive
from animora_training.memory import explain_out_of_memory
from animora_training.pipeline.report.texts import large

if TYPE_CHECKING:
    from animora_training.pipeline.record import EpochRecord

EXIT_FAILURE = 1
EXIT_USAGE = 2
# The gate refused the version; a retry would produce the same one.
EXIT_REFUSED = 3
# Without a terminal: seconds after which progress prints a line even if no epoch has ended.
LINE_INTERVAL = 30.0
# Seconds that other ranks wait before they print an error: longer than their starts are apart.
RANK_ZERO_HEAD_START = 5.0
# Width of a terminal, in columns, that fits all columns of a progress bar.
WIDE = 110


def output(*, stderr: bool = False) -> Console:
    """The console for results: standard output by default, 160 columns wide if it is not a terminal."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=160)


def to_json(value: object, indent: int | None = None) -> str:
    """JSON text of plain values. NaN and infinity become null: JSON has neither."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def fail(message: str, code: int = EXIT_FAILURE) -> typer.Exit:
    """Prints an error on standard error and returns the exception to raise."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"[bold red]error:[/] {_escape(message)}")
    return typer.Exit(code)


class ShowProgress(Protocol):
    """Callback that shows the progress of a stage."""

    def __call__(
        self, name: str, done: float, total: int | None, note: str = "", rate: float | None = None
    ) -> None:
        """Updates a stage; a new name ends the previous stage.

        Args:
            name: Name of the stage, such as "hold-out".
            done: Units done; fractions of an epoch are allowed.
            total: Units in all; None if unknown.
            note: Text that deserves a line in a log, such as the loss; empty keeps the previous note.
            rate: Pairs a second; None keeps the previous rate.
        """
        ...


def show_epoch(show: ShowProgress, epoch: "EpochRecord", epochs: int) -> None:
    """Shows a finished epoch with its loss and NDCG@10, as far as they were measured."""
    values = (("loss", epoch.loss), ("NDCG@10", epoch.ndcg10))
    note = ", ".join(f"{name} {value:.4f}" for name, value in values if value is not None)
    show(epoch.stage, epoch.epoch, epochs, note, epoch.pairs_per_second)


def wait_for_rank_zero(rank: int) -> None:
    """Waits a few seconds in every rank but zero, before the rank prints an error.

    If rank zero fails too, it prints the error in the meantime, and torchrun ends this process silently. So
    an error that all ranks share is printed once.
    """
    if rank:
        time.sleep(RANK_ZERO_HEAD_START)


@contextmanager
def report_errors(rank: int = 0) -> Iterator[None]:
    """Turns TrainingError and ArtifactError into a message on standard error and an exit code.

    Args:
        rank: Rank of this process; ranks other than 0 wait before they print, see `wait_for_rank_zero`.

    Raises:
        Exit: The block raised one of these errors.
    """
    try:
        with explain_out_of_memory("this command", "give the process more memory or less data"):
            yield
    except PeerFailed as error:
        # The failed rank prints the error and sets the exit code: torchrun reports the first that fails.
        raise typer.Exit from error
    except (TrainingError, ArtifactError) as error:
        wait_for_rank_zero(rank)
        raise fail(str(error), _exit_code(error)) from error


@contextmanager
def progress_bars(
    console: Console | None = None, clock: Callable[[], float] = time.monotonic
) -> Iterator[ShowProgress]:
    """Shows a progress bar for each stage on standard error; plain lines if that is not a terminal."""
    console = console or Console(stderr=True)
    bars = Progress(
        *_columns(console),
        console=console,
        get_time=clock,
        speed_estimate_period=math.inf,  # an epoch may take longer than the default of 30 s
        disable=not console.is_interactive,
    )
    stages = _StageProgress(bars, clock)
    with bars:
        yield stages.show
        stages.end()


class _StageProgress:
    """One rich task for each stage, one after the other; prints lines instead where bars are disabled."""

    def __init__(self, bars: Progress, clock: Callable[[], float]) -> None:
        self._bars = bars
        self._clock = clock
        self._tasks: dict[str, Task] = {}
        self._current: Task | None = None
        self._printed_at = clock()
        self._printed = ("", "", "")  # name, count and note of the latest line

    def show(
        self, name: str, done: float, total: int | None, note: str = "", rate: float | None = None
    ) -> None:
        """See ShowProgress."""
        if name not in self._tasks:
            self.end()
            self._bars.add_task(name, total=total, count="", rate="", note="")
            self._tasks[name] = self._bars.tasks[-1]
        task = self._current = self._tasks[name]
        self._bars.update(
            task.id,
            completed=done,
            total=total,
            count=f"{int(done):,}" if total is None else f"{int(done):,}/{total:,}",
            # Within an epoch there is no new loss: the previous note and rate stay.
            rate=task.fields["rate"] if rate is None else f"{large(rate)} pairs/s",
            note=note or task.fields["note"],
        )
        noteworthy = _state(task) != self._printed and (note or done == total)
        if noteworthy or self._clock() - self._printed_at >= LINE_INTERVAL:
            self._print(task)

    def end(self) -> None:
        """Stops the clock of the current stage, which may end before its total."""
        task = self._current
        if task is None:
            return
        if task.total is None:
            self._bars.update(task.id, total=task.completed)
        self._bars.stop_task(task.id)
        if _state(task) != self._printed:
            self._print(task)

    def _print(self, task: Task) -> None:
        """Prints a line if bars are disabled."""
        self._printed_at = self._clock()
        self._printed = _state(task)
        if self._bars.disable:
            parts = [part for part in (task.fields["note"], task.fields["rate"], _time_left(task)) if part]
            line = f"{task.description} {task.fields['count']}{': ' if parts else ''}{', '.join(parts)}"
            self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)


class _TimeLeftColumn(ProgressColumn):
    """Estimated time left; empty if unknown or zero."""

    def render(self, task: Task) -> Text:
        return Text(_time_left(task), style="progress.remaining")


def _state(task: Task) -> tuple[str, str, str]:
    return task.description, task.fields["count"], task.fields["note"]


def _time_left(task: Task) -> str:
    seconds = task.time_remaining
    if task.finished or task.stop_time is not None or seconds is None:
        return ""
    return f"{timedelta(seconds=math.ceil(seconds))} left"


def _columns(console: Console) -> list[ProgressColumn]:
    wide = console.width >= WIDE
    return [
        TextColumn("{task.description:<14}"),
        BarColumn(bar_width=20 if wide else 6),
        TextColumn("{task.fields[count]}", justify="right"),
        *([TimeElapsedColumn(), TextColumn("{task.fields[rate]}")] if wide else []),
        _TimeLeftColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    ]


def _exit_code(error: Exception) -> int:
    match error:
        case InvalidOption():
            return EXIT_USAGE
        case WorseThanActive():
            return EXIT_REFUSED
        case _:
            return EXIT_FAILURE


def _escape(text: str) -> str:
    return text.replace("[", "\\[")
