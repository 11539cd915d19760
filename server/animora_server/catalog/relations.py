"""Who blocks whom: as a reading found it, put right by what was heard since."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from animora_server.catalog.lookup import Groups
from animora_server.types import IntArray

# Whether the first of two users blocks the second.
BlockChanges = Mapping[tuple[int, int], bool]


@dataclass(frozen=True, slots=True)
class Relations:
    """Users who must not see each other. What was heard lies over what was found, of which there may be much.

    Attributes:
        blocked: Whom each user blocks, as found.
        related: Whom each user blocks or is blocked by, as found.
        heard: The last word on each pair of users since.
        corrected: All relations of the users in those pairs: int64 (k) each, ascending.
    """

    blocked: Groups
    related: Groups
    heard: BlockChanges = field(default_factory=dict)
    corrected: Mapping[int, IntArray] = field(default_factory=dict)

    @classmethod
    def empty(cls) -> Self:
        """Nobody blocks anyone."""
        return cls(Groups.empty(), Groups.empty())

    @classmethod
    def of(cls, blockers: IntArray, blocked: IntArray) -> Self:
        """The blocks int64 (p) of users int64 (p)."""
        return cls(
            Groups.of(blockers, blocked),
            Groups.of(np.concatenate((blockers, blocked)), np.concatenate((blocked, blockers))),
        )

    def members_of(self, user: int) -> IntArray:
        """Users whom the user blocks or who block the user: int64 (k), ascending."""
        corrected = self.corrected.get(user)
        return self.related.members_of(user) if corrected is None else corrected

    def members_of_each(self, users: IntArray) -> dict[int, IntArray]:
        """By position in users int64 (k), the members of those who have any."""
        members = self.related.members_of_each(users)
        if self.corrected:
            for number, user in enumerate(users.tolist()):
                if user in self.corrected:
                    members[number] = self.corrected[user]
        return members

    def changed(self, changes: BlockChanges) -> "Relations":
        """These relations after some changes. The work grows with the changes, not with the blocks."""
        heard = {**self.heard, **changes}
        others: dict[int, dict[int, bool]] = {}
        for (blocker, blocked), is_blocked in changes.items():
            # The block of one side that is taken back leaves that of the other.
            now = is_blocked or self._blocks(heard, blocked, blocker)
            others.setdefault(blocker, {})[blocked] = now
            others.setdefault(blocked, {})[blocker] = now
        corrected = dict(self.corrected)
        for user, changed in others.items():
            kept = np.setdiff1d(self.members_of(user), np.fromiter(changed, np.int64))
            related = np.fromiter((other for other, now in changed.items() if now), np.int64)
            corrected[user] = np.union1d(kept, related)
        return replace(self, heard=heard, corrected=corrected)

    def _blocks(self, heard: BlockChanges, blocker: int, blocked: int) -> bool:
        now = heard.get((blocker, blocked))
        return bool(np.isin(blocked, self.blocked.members_of(blocker))) if now is None else now

    @property
    def nbytes(self) -> int:
        """Size of the arrays of what was found."""
        return self.blocked.nbytes + self.related.nbytes
