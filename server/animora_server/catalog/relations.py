"""Blocks between users: those of a reading of the database, plus those notified since."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from animora_server.catalog.index import CsrIndex
from animora_server.types import IntArray

Block = tuple[int, int]  # the user who blocks, and the user who is blocked


@dataclass(frozen=True, slots=True)
class Relations:
    """Users who must not see each other.

    Notified blocks are kept apart from the blocks of the reading, which are too many to be copied.

    Attributes:
        blocked: The users that each user blocks, from the reading.
        related: The users that each user blocks or is blocked by, from the reading.
        notified: Further users that each user blocks or is blocked by, from notifications.
    """

    blocked: CsrIndex
    related: CsrIndex
    notified: Mapping[int, frozenset[int]] = field(default_factory=dict)

    @classmethod
    def empty(cls) -> Self:
        """No blocks."""
        return cls(CsrIndex.empty(), CsrIndex.empty())

    @classmethod
    def of(cls, blockers: IntArray, blocked: IntArray) -> Self:
        """Relations from pairs: blockers int64 (p) and blocked users int64 (p)."""
        return cls(
            CsrIndex.of(blockers, blocked),
            CsrIndex.of(np.concatenate((blockers, blocked)), np.concatenate((blocked, blockers))),
        )

    def members_of(self, user: int) -> IntArray:
        """The users that a user blocks or is blocked by: int64 (k), ascending."""
        read, notified = self.related.members_of(user), self.notified.get(user)
        return read if notified is None else np.union1d(read, np.fromiter(notified, np.int64, len(notified)))

    def members_of_each(self, users: IntArray) -> dict[int, IntArray]:
        """The related users of each user with any, by position in users int64 (k); see members_of."""
        members = self.related.members_of_each(users)
        if self.notified:
            for position, user in enumerate(users.tolist()):
                if user in self.notified:
                    members[position] = self.members_of(user)
        return members

    def with_blocks(self, blocks: Iterable[Block]) -> "Relations":
        """These relations plus further blocks. Takes time by the number of notified blocks, not of all."""
        added: dict[int, set[int]] = {}
        for blocker, blocked in blocks:
            added.setdefault(blocker, set()).add(blocked)
            added.setdefault(blocked, set()).add(blocker)
        notified = dict(self.notified)
        for user, users in added.items():
            notified[user] = notified.get(user, frozenset()) | users
        return replace(self, notified=notified)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays, without notified blocks."""
        return self.blocked.nbytes + self.related.nbytes
