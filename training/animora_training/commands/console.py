"""What the command line shows: progress bars, tables, and errors without a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from animora_artifact import ArtifactError
from animora_training.errors import InvalidOption, TrainingError

EXIT_FAILURE = 1
EXIT_USAGE = 2


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

    def __call__(self, name: str, done: int, total: int | None, note: str = "") -> None:
        """Takes what it is, how much is done, of how much if that is known, and a remark."""
        ...


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turns the errors that a person can do something about into a message and an exit code."""
    try:
        yield
    except InvalidOption as error:
        raise fail(str(error), EXIT_USAGE) from error
    except (TrainingError, ArtifactError) as error:
        raise fail(str(error)) from error


@contextmanager
def progress_bars() -> Iterator[Show]:
    """Shows a bar for each name that is reported; nothing where standard error is not a terminal."""
    columns = (TextColumn("{task.description:<14}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(
        *columns, TextColumn("{task.fields[note]}"), console=console, disable=not console.is_terminal
    ) as progress:
        bars = {}

        def show(name: str, done: int, total: int | None, note: str = "") -> None:
            if name not in bars:
                bars[name] = progress.add_task(name, total=total, note=note)
            progress.update(bars[name], completed=done, total=total, note=note)

        yield show


def _escape(text: str) -> str:
    return text.replace("[", "\\[")
