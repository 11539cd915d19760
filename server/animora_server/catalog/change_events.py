"""Facts notified between two readings of the database, and what they change in a snapshot."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from animora_server.catalog.index import ABSENT
from animora_server.catalog.relations import Block
from animora_server.catalog.snapshot import NO_ROWS, CatalogSnapshot
from animora_server.types import IntArray

# Notified deletions beside the flags of all posts; of more, the flags are copied, which takes 1.7 ms for 10
# million posts.
MAX_NOTIFIED = 1024


@dataclass(frozen=True, slots=True)
class ChangeEvents:
    """What notifications say. Anyone who may connect to the database can send them.

    So they only hide, until the next reading decides: nobody sees an author, or a post, that a reading hides.

    Attributes:
        blocks: New blocks.
        deleted: Posts that are gone, or were marked as deleted.
        unblocked: Whether a block was taken back. The next reading shows which.
    """

    blocks: frozenset[Block] = frozenset()
    deleted: frozenset[int] = frozenset()
    unblocked: bool = False

    @classmethod
    def joined(cls, parts: Iterable["ChangeEvents"]) -> Self:
        """Several facts as one."""
        parts = list(parts)
        return cls(
            frozenset().union(*(part.blocks for part in parts)),
            frozenset().union(*(part.deleted for part in parts)),
            any(part.unblocked for part in parts),
        )

    @property
    def deleted_ids(self) -> IntArray:
        """The deleted posts, int64 (k), ascending."""
        return np.sort(np.fromiter(self.deleted, np.int64))

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self.blocks or self.deleted or self.unblocked)

    def __len__(self) -> int:
        """How many blocks and deletions there are."""
        return len(self.blocks) + len(self.deleted)


class EventLog:
    """Facts that the next reading may still lack, in the order of their notifications.

    A fact is notified after its commit, so that a reading which began later than that holds it.
    """

    def __init__(self) -> None:
        self._notified: deque[tuple[float, ChangeEvents]] = deque()
        self._size = 0

    def __len__(self) -> int:
        """How many blocks and deletions there are, repeats included."""
        return self._size

    def add(self, events: ChangeEvents, notified_at: float) -> None:
        """Takes facts notified at a time (`time.monotonic()`), no earlier than those before."""
        self._notified.append((notified_at, events))
        self._size += len(events)

    def since(self, moment: float) -> ChangeEvents:
        """What a reading that began at a moment may lack."""
        return ChangeEvents.joined(events for notified_at, events in self._notified if notified_at >= moment)

    def forget(self, moment: float) -> None:
        """Drops what readings that begin at a moment, or later, hold."""
        while self._notified and self._notified[0][0] < moment:
            self._size -= len(self._notified.popleft()[1])


def apply_events(snapshot: CatalogSnapshot, events: ChangeEvents) -> CatalogSnapshot:
    """The snapshot with facts applied to it; all else is shared, the feed and the highest count included.

    Facts that it holds already, and posts that it does not know, change nothing.
    """
    deleted, notified, relations = snapshot.deleted, snapshot.notified_deleted, snapshot.relations
    rows = snapshot.rows(events.deleted_ids)
    rows = rows[rows != ABSENT]
    rows = rows[~snapshot.is_deleted(rows)]
    if len(rows):
        notified = np.union1d(notified, rows)
        if len(notified) > MAX_NOTIFIED:
            deleted = deleted.copy()
            deleted[notified] = True
            notified = NO_ROWS
    if events.blocks:
        relations = relations.with_blocks(events.blocks)
    return replace(snapshot, deleted=deleted, notified_deleted=notified, relations=relations)
