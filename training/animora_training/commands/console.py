"""What the command line shows: progress bars, tables, and errors without a traceback."""

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
from animora_training.errors import FailedElsewhere, InvalidOption, TrainingError, WorseThanActive
from animora_training.memory import memory_for
from animora_training.pipeline.report.texts import large

if TYPE_CHECKING:
    from animora_training.pipeline.record import EpochRecord

EXIT_FAILURE = 1
EXIT_USAGE = 2
# What was made is not good enough: to do the same again would make the same.
EXIT_REFUSED = 3
# Where nobody watches a bar, a line at least this often, in seconds, as long as there is anything to say.
LINE_INTERVAL = 30.0
# How long the others of several processes let the first one speak, in seconds: longer than starts are apart.
PATIENCE = 5.0
# Columns of a terminal in which a row has room for everything.
WIDE = 110


def output() -> Console:
    """The console for results: standard output, not wrapped where it is not a terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


def fail(message: str, code: int = EXIT_FAILURE) -> typer.Exit:
    """Says what is wrong on standard error; raise what it returns."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"[bold red]error:[/] {_escape(message)}")
    return typer.Exit(code)


class Show(Protocol):
    """Shows how far something has come."""

    def __call__(
        self, name: str, done: float, total: int | None, note: str = "", rate: float | None = None
    ) -> None:
        """Tells the news; what was named before has ended.

        Args:
            name: What it is, such as a stage of a fit.
            done: How much is done; a part of an epoch may be given as such.
            total: Of how much, if that is known.
            note: A remark, such as the loss: worth a line in a log. Left out, the one before holds on.
            rate: Pairs a second.
        """
        ...


def show_epoch(show: Show, epoch: "EpochRecord", epochs: int) -> None:
    """Tells of an epoch of so many, and of what is known of it."""
    facts = (("loss", epoch.loss), ("NDCG@10", epoch.ndcg10))
    note = ", ".join(f"{name} {value:.4f}" for name, value in facts if value is not None)
    show(epoch.stage, epoch.epoch, epochs, note, epoch.pairs_per_second)


def let_the_first_speak(rank: int) -> None:
    """Waits in every process but the first, which are about to say what is wrong.

    If the same is wrong in the first one, it says so meanwhile, and torchrun, which ends all where one fails,
    ends this one before it does.
    """
    if rank:
        time.sleep(PATIENCE)


@contextmanager
def plain_errors(rank: int = 0) -> Iterator[None]:
    """Turns the errors that a person can do something about into a message and an exit code.

    Args:
        rank: Which of several processes this is; only the first one, 0, says at once what is wrong.
    """
    try:
        with memory_for("what this command does", "give the process more, or it less to do"):
            yield
    except FailedElsewhere as error:
        # Said once is enough; torchrun, which ends all where one fails, is to see the one that says it.
        raise typer.Exit from error
    except (TrainingError, ArtifactError) as error:
        let_the_first_speak(rank)
        raise fail(str(error), _exit_code(error)) from error


@contextmanager
def progress_bars(
    console: Console | None = None, clock: Callable[[], float] = time.monotonic
) -> Iterator[Show]:
    """Shows a bar for each name on standard error; plain lines where that is not a terminal."""
    console = console or Console(stderr=True)
    bars = Progress(
        *_columns(console),
        console=console,
        get_time=clock,
        speed_estimate_period=math.inf,  # an epoch may take longer than the half minute of the default
        disable=not console.is_interactive,
    )
    stages = _Stages(bars, clock)
    with bars:
        yield stages.show
        stages.end()


class _Stages:
    """A task for each name, one after the other; rich draws them, or else lines are printed of them."""

    def __init__(self, bars: Progress, clock: Callable[[], float]) -> None:
        self._bars = bars
        self._clock = clock
        self._tasks: dict[str, Task] = {}
        self._current: Task | None = None
        self._said_at = clock()
        self._said = ("", "", "")  # of the latest line: name, count, note

    def show(
        self, name: str, done: float, total: int | None, note: str = "", rate: float | None = None
    ) -> None:
        """See Show."""
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
            # What is not told again holds on: a part of an epoch has no loss yet.
            rate=task.fields["rate"] if rate is None else f"{large(rate)} pairs/s",
            note=note or task.fields["note"],
        )
        noteworthy = _state(task) != self._said and (note or done == total)
        if noteworthy or self._clock() - self._said_at >= LINE_INTERVAL:
            self._say(task)

    def end(self) -> None:
        """Stops the clock of what was shown last, which may have ended before its total."""
        task = self._current
        if task is None:
            return
        if task.total is None:
            self._bars.update(task.id, total=task.completed)
        self._bars.stop_task(task.id)
        if _state(task) != self._said:
            self._say(task)

    def _say(self, task: Task) -> None:
        """Prints a line where there are no bars."""
        self._said_at = self._clock()
        self._said = _state(task)
        if self._bars.disable:
            facts = [fact for fact in (task.fields["note"], task.fields["rate"], _left(task)) if fact]
            line = f"{task.description} {task.fields['count']}{': ' if facts else ''}{', '.join(facts)}"
            self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)


class _Left(ProgressColumn):
    """The time that is left, as long as it is known and something is."""

    def render(self, task: Task) -> Text:
        return Text(_left(task), style="progress.remaining")


def _state(task: Task) -> tuple[str, str, str]:
    return task.description, task.fields["count"], task.fields["note"]


def _left(task: Task) -> str:
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
        _Left(),
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
