"""Queries on their way to their rankings, and those who wait for them."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Protocol

from animora_server.types import RankedCandidates, RankQuery

# Queries that are due within so many seconds are one piece of work, due at the first of them: as many seconds
# as it may take to gather them. One piece costs the queue a tenth of what they would.
MAX_DEADLINE_SPREAD = 0.005
MAX_GROUP_CANDIDATES = 8192  # more would have the first of them wait for the last
MAX_GROUP_QUERIES = 256  # more keys are not looked up at once
_VERSION_AND_DUE = attrgetter("query.model_version", "query.score_by")


class Cancellable(Protocol):
    """Something that is done for someone."""

    def cancel(self) -> object:
        """It is of no use any more."""
        ...


class CompletionLatch:
    """Waits until so many queries are answered: one future for all, as each costs its loop a turn."""

    def __init__(self, queries: int) -> None:
        self._left = queries
        self._answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def gone(self) -> bool:
        """Whether nobody waits any more."""
        return self._answered.cancelled()

    def all_answered(self) -> "asyncio.Future[None]":
        """Done when all are answered; to cancel it is to go."""
        return self._answered

    def leave(self) -> None:
        """Waits no more."""
        self._answered.cancel()

    def one_is_answered(self) -> None:
        """One less to wait for."""
        self._left -= 1
        if not self._left and not self._answered.done():
            self._answered.set_result(None)


@dataclass(eq=False, slots=True)
class RankTask:
    """A query, and its ranking to come.

    Attributes:
        outcome: The ranking, or why there is none; None while it is to come.
        work: What is done for this query at the moment.
    """

    query: RankQuery
    latch: CompletionLatch
    outcome: RankedCandidates | BaseException | None = None
    work: Cancellable | None = None

    def answer(self, outcome: RankedCandidates | BaseException) -> None:
        """Tells the caller."""
        if self.outcome is None:
            self.outcome = outcome
            self.latch.one_is_answered()

    def abandon(self) -> None:
        """Nobody waits for it any more."""
        if self.work is not None:
            self.work.cancel()


@dataclass(eq=False, slots=True)
class SharedCancellation:
    """Work for several queries: cancelled when the last of them has no use for it any more."""

    work: Cancellable
    queries: int

    def cancel(self) -> None:
        """One of them has no use for it."""
        self.queries -= 1
        if not self.queries:
            self.work.cancel()


def split_into_turns(tasks: Sequence[RankTask]) -> Iterator[Sequence[RankTask]]:
    """Queries of one caller in order, cut where a turn of the event loop would become too long for others."""
    start = ids = 0
    for number, task in enumerate(tasks):
        query = task.query
        ids += len(query.post_ids) + len(query.exclude_post_ids)
        if ids > MAX_GROUP_CANDIDATES and number > start:
            yield tasks[start:number]
            start, ids = number, len(query.post_ids) + len(query.exclude_post_ids)
    yield tasks[start:]


def group_by_model_and_deadline(tasks: Iterable[RankTask]) -> list[list[RankTask]]:
    """Those that can be one piece of work: of one model, due at about the same time, not too many.

    The first of each group is due first.
    """
    groups: list[list[RankTask]] = []
    version, due, candidates = None, 0.0, 0
    for task in sorted(tasks, key=_VERSION_AND_DUE):
        query = task.query
        candidates += len(query.post_ids)
        if (
            query.score_by > due
            or query.model_version != version
            or candidates > MAX_GROUP_CANDIDATES
            or len(groups[-1]) == MAX_GROUP_QUERIES
        ):
            groups.append([])
            version, due, candidates = (
                query.model_version,
                query.score_by + MAX_DEADLINE_SPREAD,
                len(query.post_ids),
            )
        groups[-1].append(task)
    return groups
