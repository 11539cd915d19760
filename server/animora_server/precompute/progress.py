"""What people see of a run: a progress bar while it goes on, a table at its end."""

from types import TracebackType
from typing import Self

import structlog
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from animora_server.precompute.plan import Plan
from animora_server.precompute.summary import RunSummary, RunTotals

log = structlog.get_logger(__name__)


class ProgressBar:
    """Users done, pairs a second and the time that is left; in the log, by the tenth, where no terminal is.

    See `job.RunObserver`. Use it as a context manager.

    Attributes:
        has_swapped: Whether timelines are served from the generation now.
    """

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("users, {task.fields[pairs_a_second]} pairs/s,"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = TaskID(0)
        self._pairs = 0
        self._logged_tenths = 0
        self.has_swapped = False

    def __enter__(self) -> Self:
        """Begins to show."""
        self._progress.start()
        self._task = self._progress.add_task("loading", total=None, pairs_a_second="-")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves what was last shown."""
        self._progress.stop()

    def planned(self, plan: Plan, users: int) -> None:
        """See RunObserver."""
        self._progress.reset(
            self._task,
            total=users,
            description="resuming" if plan.resumed else "ranking",
            pairs_a_second="-",
        )

    def swapped(self) -> None:
        """See swap.SwapObserver."""
        self.has_swapped = True

    def advanced(self, chunk: RunTotals) -> None:
        """See write.Watch."""
        self._pairs += chunk.pairs
        task = self._progress.tasks[0]
        speed = f"{self._pairs / task.elapsed:,.0f}" if task.elapsed else "-"
        self._progress.update(self._task, advance=chunk.users, pairs_a_second=speed)
        if self._progress.disable and task.total:
            tenths = int(10 * task.completed / task.total)
            if tenths > self._logged_tenths:
                self._logged_tenths = tenths
                log.info("ranking", users=int(task.completed), of=int(task.total), pairs_a_second=speed)


def summary_table(summary: RunSummary, shards: str) -> Table:
    """The end of a run, or of all shards of one.

    Args:
        summary: What was done.
        shards: Which shards did it.
    """
    totals, generation = summary.totals, summary.generation
    table = Table(title="timelines precomputed", title_justify="left", show_header=False)
    for _ in range(2):
        table.add_column(overflow="fold")  # a number that is cut is another number
    for row in (
        ("generation", generation.generation_id.hex()),
        ("state", _state(summary)),
        ("model", _model(summary)),
        ("shard", shards),
        ("users ranked by NeuCF", f"{totals.neucf:,}"),
        ("users ranked by the heuristic", f"{totals.heuristic:,}"),
        ("users whose lists were there", f"{totals.kept:,}"),
        ("users left out (scores that are no numbers)", f"{totals.left_out:,}"),
        ("user-post pairs", f"{totals.pairs:,}"),
        ("bytes of lists", f"{totals.stored_bytes:,}"),
        ("seconds to load", f"{summary.loading:.1f}"),
        ("seconds to rank and write", f"{summary.seconds:.1f}"),
        ("users/s", f"{totals.ranked / summary.seconds:,.0f}"),
        ("pairs/s", f"{totals.pairs / summary.seconds:,.0f}"),
        ("lists retired", f"{summary.retired:,}"),
    ):
        table.add_row(*row)
    return table


def _state(summary: RunSummary) -> str:
    begun = "resumed" if summary.resumed else "new"
    if summary.resumed and summary.catalog_changed:
        begun += "; the database has changed since it was begun"
    return f"{begun}; {'current now' if summary.current else 'unfinished: other shards are to come'}"


def _model(summary: RunSummary) -> str:
    model = summary.generation.model_version or "none"
    if summary.model_changed:
        model += "; another is active now, and servers pass over this one's lists until the next run"
    return model
