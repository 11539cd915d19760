"""The console output of a run: a progress bar, and a summary table at the end."""

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
    """A bar with users done, pairs a second and the time left. Without a terminal: a log line at each tenth.

    See `job.RunObserver`. Use it as a context manager.

    Attributes:
        has_swapped: Whether the generation is current.
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
        """Shows the bar."""
        self._progress.start()
        self._task = self._progress.add_task("loading", total=None, pairs_a_second="-")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves the last state on the screen."""
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
        """See write.WriteObserver."""
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
    """The summary of a run, or of several shards, as a table.

    Args:
        summary: The summary.
        shards: The text for the row "shard".
    """
    totals, generation = summary.totals, summary.generation
    table = Table(title="timelines precomputed", title_justify="left", show_header=False)
    for _ in range(2):
        table.add_column(overflow="fold")  # wraps: a cropped number would be misread
    for row in (
        ("generation", generation.generation_id.hex()),
        ("state", _state(summary)),
        ("model", _model(summary)),
        ("shard", shards),
        ("users ranked by NeuCF", f"{totals.neucf:,}"),
        ("users ranked by the heuristic", f"{totals.heuristic:,}"),
        ("users already stored", f"{totals.kept:,}"),
        ("users left out (scores not finite)", f"{totals.left_out:,}"),
        ("user-post pairs", f"{totals.pairs:,}"),
        ("bytes of timelines", f"{totals.stored_bytes:,}"),
        ("seconds to load", f"{summary.loading:.1f}"),
        ("seconds to rank and write", f"{summary.seconds:.1f}"),
        ("users/s", f"{totals.ranked / summary.seconds:,.0f}"),
        ("pairs/s", f"{totals.pairs / summary.seconds:,.0f}"),
        ("timelines retired", f"{summary.retired:,}"),
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
        model += "; another model is active: servers will not use these timelines"
    return model
