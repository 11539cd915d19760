"""A query on its way to its ranking."""

import asyncio
from dataclasses import dataclass
from typing import Any

from animora_server.types import Ranking, RankQuery


@dataclass(eq=False, slots=True)
class Pending:
    """A query, and its ranking to come.

    Attributes:
        work: What is done for this query alone at the moment, and ends if its caller goes.
    """

    query: RankQuery
    ranking: asyncio.Future[Ranking]
    work: asyncio.Future[Any] | None = None

    def answer(self, outcome: Ranking | BaseException) -> None:
        """Tells the caller, unless they have gone."""
        if self.ranking.done():
            return
        if isinstance(outcome, BaseException):
            self.ranking.set_exception(outcome)
        else:
            self.ranking.set_result(outcome)

    def abandon(self) -> None:
        """The caller has gone."""
        self.ranking.cancel()
        if self.work is not None:
            self.work.cancel()
