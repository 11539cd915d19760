"""Queries on their way to their rankings, and those who wait for them."""

import asyncio
from dataclasses import dataclass
from typing import Protocol

from animora_server.types import Ranking, RankQuery


class Work(Protocol):
    """Something that is done for someone."""

    def cancel(self) -> object:
        """It is of no use any more."""
        ...


class Caller:
    """Waits until so many queries are answered: one future for all, as each costs its loop a turn."""

    def __init__(self, queries: int) -> None:
        self._left = queries
        self._answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def gone(self) -> bool:
        """Whether nobody waits any more."""
        return self._answered.cancelled()

    async def wait(self) -> None:
        """Returns when all are answered."""
        await self._answered

    def one_is_answered(self) -> None:
        """One less to wait for."""
        self._left -= 1
        if not self._left and not self._answered.done():
            self._answered.set_result(None)


@dataclass(eq=False, slots=True)
class Pending:
    """A query, and its ranking to come.

    Attributes:
        outcome: The ranking, or why there is none; None while it is to come.
        work: What is done for this query at the moment.
    """

    query: RankQuery
    caller: Caller
    outcome: Ranking | BaseException | None = None
    work: Work | None = None

    def answer(self, outcome: Ranking | BaseException) -> None:
        """Tells the caller."""
        if self.outcome is None:
            self.outcome = outcome
            self.caller.one_is_answered()

    def abandon(self) -> None:
        """The caller has gone."""
        if self.work is not None:
            self.work.cancel()


@dataclass(eq=False, slots=True)
class SharedWork:
    """Work for several queries: cancelled when the last of them has no use for it any more."""

    work: Work
    queries: int

    def cancel(self) -> None:
        """One of them has no use for it."""
        self.queries -= 1
        if not self.queries:
            self.work.cancel()
