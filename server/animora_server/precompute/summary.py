"""What a run did, in numbers."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

from animora_server.types import Generation


@dataclass(frozen=True, slots=True)
class RunTotals:
    """Sums over chunks, or over shards.

    Attributes:
        neucf: Users ranked by the model.
        heuristic: Users ranked by the heuristic.
        kept: Users whose lists an earlier run had stored.
        left_out: Users for whom the model gave scores that are no numbers; they are ranked when they ask.
        pairs: User-post pairs ranked.
        stored_bytes: Size of the lists stored.
        scoring: Seconds of all threads in the model.
        ordering: Seconds of all threads with candidates and order.
        writing: Seconds that chunks waited for Redis.
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
        return RunTotals(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))

    @property
    def ranked(self) -> int:
        """Users who got a list from this run."""
        return self.neucf + self.heuristic

    @property
    def users(self) -> int:
        """All users."""
        return self.ranked + self.kept + self.left_out


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What a run leaves behind.

    Attributes:
        generation: What was built.
        totals: What was done for it.
        resumed: Whether another run had begun it.
        catalog_changed: Whether the database has changed since it was begun.
        model_changed: Whether another model is active since.
        current: Whether timelines are served from it now; not so while other shards are unfinished.
        retired: Lists of the generation before, which are left to their page tokens now.
        loading: Seconds until the first user could be ranked.
        seconds: Seconds of ranking and writing after that.
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
    """The summary of shards that made one generation.

    Args:
        summaries: One each, at least one.
        seconds: From the first one's beginning to the last one's end.
    """
    loading = max(summary.loading for summary in summaries)
    return RunSummary(
        generation=summaries[0].generation,
        totals=sum((summary.totals for summary in summaries), RunTotals()),
        # All but one have joined what that one has begun.
        resumed=all(summary.resumed for summary in summaries),
        catalog_changed=any(summary.catalog_changed for summary in summaries),
        model_changed=any(summary.model_changed for summary in summaries),
        current=any(summary.current for summary in summaries),
        retired=sum(summary.retired for summary in summaries),
        loading=loading,
        seconds=seconds - loading,
    )
