"""Who blocks whom: as a reading of the database found it, with blocks that were notified since."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from animora_server.catalog.index import CsrIndex
from animora_server.types import IntArray

Block = tuple[int, int]  # the user who blocks, and the user who is blocked


@dataclass(frozen=True, slots=True)
class Relations:
    """Users who must not see each other. Notified blocks lie over those found, of which there may be many.

    Attributes:
        blocked: Whom each user blocks, as found.
        related: Whom each user blocks or is blocked by, as found.
        notified: Further users whom each user blocks or is blocked by.
    """

    blocked: CsrIndex
    related: CsrIndex
    notified: Mapping[int, frozenset[int]] = field(default_factory=dict)

    @classmethod
    def empty(cls) -> Self:
        """Nobody blocks anyone."""
        return cls(CsrIndex.empty(), CsrIndex.empty())

    @classmethod
    def of(cls, blockers: IntArray, blocked: IntArray) -> Self:
        """The blocks int64 (p) of users int64 (p)."""
        return cls(
            CsrIndex.of(blockers, blocked),
            CsrIndex.of(np.concatenate((blockers, blocked)), np.concatenate((blocked, blockers))),
        )

    def members_of(self, user: int) -> IntArray:
        """Users whom the user blocks or who block the user: int64 (k), ascending."""
        found, notified = self.related.members_of(user), self.notified.get(user)
        return found if notified is None else _joined(found, notified)

    def members_of_each(self, users: IntArray) -> dict[int, IntArray]:
        """By position in users int64 (k), the members of those who have any."""
        members = self.related.members_of_each(users)
        if self.notified:
            for position, user in enumerate(users.tolist()):
                if user in self.notified:
                    members[position] = self.members_of(user)
        return members

    def with_blocks(self, blocks: Iterable[Block]) -> "Relations":
        """These relations and further blocks. The work grows with all notified ones, not with those found."""
        others: dict[int, set[int]] = {}
        for blocker, blocked in blocks:
            others.setdefault(blocker, set()).add(blocked)
            others.setdefault(blocked, set()).add(blocker)
        notified = dict(self.notified)
        for user, added in others.items():
            notified[user] = notified.get(user, frozenset()) | added
        return replace(self, notified=notified)

    @property
    def nbytes(self) -> int:
        """Size of the arrays of what was found."""
        return self.blocked.nbytes + self.related.nbytes


def _joined(found: IntArray, notified: frozenset[int]) -> IntArray:
    return np.union1d(found, np.fromiter(notified, np.int64, len(notified)))
