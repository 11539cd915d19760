"""Facts heard between two readings of the database, and what they change in a snapshot."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from animora_server.catalog.lookup import ABSENT
from animora_server.catalog.relations import BlockChanges
from animora_server.catalog.snapshot import NO_ROWS, CatalogSnapshot
from animora_server.types import IntArray

# Notified deletions beside the flags of all posts; of more, the flags are copied, which takes 1.7 ms for 10
# million posts.
MAX_NOTIFIED = 1024


@dataclass(frozen=True, slots=True)
class Facts:
    """What was committed.

    Attributes:
        blocks: The last word on each pair of users.
        deleted: Posts that are gone, or were marked as deleted.
    """

    blocks: BlockChanges = field(default_factory=dict)
    deleted: frozenset[int] = frozenset()

    @classmethod
    def joined(cls, parts: Iterable["Facts"]) -> Self:
        """Several facts as one, given in the order of their commits."""
        blocks: dict[tuple[int, int], bool] = {}
        deleted: set[int] = set()
        for part in parts:
            blocks.update(part.blocks)
            deleted |= part.deleted
        return cls(blocks, frozenset(deleted))

    @property
    def deleted_ids(self) -> IntArray:
        """The deleted posts, int64 (k), ascending."""
        return np.sort(np.fromiter(self.deleted, np.int64))

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self.blocks or self.deleted)


class RecentFacts:
    """Facts that the next reading may still lack, in the order in which they were heard.

    A fact is heard after its commit, so that a reading which began later than that holds it.
    """

    def __init__(self) -> None:
        self._heard: deque[tuple[float, Facts]] = deque()

    def add(self, facts: Facts, heard_at: float) -> None:
        """Takes facts heard at a time (`time.monotonic()`), no earlier than those before."""
        self._heard.append((heard_at, facts))

    def since(self, moment: float) -> Facts:
        """What a reading that began at a moment may lack."""
        return Facts.joined(facts for heard_at, facts in self._heard if heard_at >= moment)

    def forget(self, moment: float) -> None:
        """Drops what readings that begin at a moment, or later, hold."""
        while self._heard and self._heard[0][0] < moment:
            self._heard.popleft()


def corrected(snapshot: CatalogSnapshot, facts: Facts) -> CatalogSnapshot:
    """The snapshot with facts applied to it; all else is shared, the feed and the highest count included.

    Facts that it holds already, and posts that it does not know, change nothing.
    """
    deleted, notified, relations = snapshot.deleted, snapshot.notified_deleted, snapshot.relations
    rows = snapshot.rows(facts.deleted_ids)
    rows = rows[rows != ABSENT]
    rows = rows[~snapshot.is_deleted(rows)]
    if len(rows):
        notified = np.union1d(notified, rows)
        if len(notified) > MAX_NOTIFIED:
            deleted = deleted.copy()
            deleted[notified] = True
            notified = NO_ROWS
    if facts.blocks:
        relations = relations.changed(facts.blocks)
    return replace(snapshot, deleted=deleted, notified_deleted=notified, relations=relations)
