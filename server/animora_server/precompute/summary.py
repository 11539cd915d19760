"""The totals and the summary of a run."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

from animora_server.types import Generation


@dataclass(frozen=True, slots=True)
class RunTotals:
    """Sums over chunks, or over shards.

    Attributes:
        neucf: Users ranked by the model.
        heuristic: Users ranked by the heuristic.
        kept: Users whose timelines an earlier run stored.
        left_out: Users with scores that are not finite; servers rank them on request.
        pairs: User-post pairs ranked.
        stored_bytes: Size of the stored timelines.
        scoring: Seconds in the model, summed over threads.
        ordering: Seconds for selecting and ordering candidates, summed over threads.
        writing: Seconds of waiting for Redis, summed over chunks.
    """

    neucf: int = 0
    heuristic: int = 0
    kept: int = 0
    left_out: int = 0
    pairs: int = 0
    stored_bytes: int = 0
    scoring: float = 0.0
    ordering: float = 0.0
    writing: float = 0.0

    def __add__(self, other: "RunTotals") -> "RunTotals":
        return RunTotals(*(left + right for left, right in zip(astuple(self), astuple(other), strict=True)))

    @property
    def ranked(self) -> int:
        """Users whose timelines this run stored."""
        return self.neucf + self.heuristic

    @property
    def users(self) -> int:
        """All users."""
        return self.ranked + self.kept + self.left_out


@dataclass(frozen=True, slots=True)
class RunSummary:
    """The result of a run.

    Attributes:
        generation: The generation.
        totals: The totals of the run.
        resumed: Whether another run began the generation.
        catalog_changed: Whether the database has changed since it was begun.
        model_changed: Whether another model has been activated since.
        current: Whether the generation is current; false while other shards are unfinished.
        retired: Number of timelines of the previous generation that were retired.
        loading: Seconds of loading.
        seconds: Seconds of ranking and writing.
    """

    generation: Generation
    totals: RunTotals
    resumed: bool
    catalog_changed: bool
    model_changed: bool
    current: bool
    retired: int
    loading: float
    seconds: float


def merge_summaries(summaries: Sequence[RunSummary], seconds: float) -> RunSummary:
    """Merges the summaries of the shards of one generation.

    Args:
        summaries: One for each shard, at least one.
        seconds: From the beginning of the first shard to the end of the last.
    """
    loading = max(summary.loading for summary in summaries)
    return RunSummary(
        generation=summaries[0].generation,
        totals=sum((summary.totals for summary in summaries), RunTotals()),
        # One shard begins the generation, and the rest resume it.
        resumed=all(summary.resumed for summary in summaries),
        catalog_changed=any(summary.catalog_changed for summary in summaries),
        model_changed=any(summary.model_changed for summary in summaries),
        current=any(summary.current for summary in summaries),
        retired=sum(summary.retired for summary in summaries),
        loading=loading,
        seconds=seconds - loading,
    )
