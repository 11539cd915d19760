"""The immutable view of posts, interactions and blocks that a request pins."""

from dataclasses import dataclass, field, replace

import numpy as np

from animora_server.catalog.embeddings import EmbeddingFile
from animora_server.catalog.feed import FeedIndex
from animora_server.catalog.index import CsrIndex, IdMap
from animora_server.catalog.relations import Relations
from animora_server.types import BoolArray, DoubleArray, IntArray

NO_ROWS = np.empty(0, np.int64)
LATE_COMMIT = 60.0  # seconds that a post may be older than the commit that shows it


@dataclass(frozen=True, slots=True)
class CatalogSnapshot:
    """Posts by row, and what users did; published whole, never changed.

    A row belongs to one post and one content for an epoch: an edited post moves to a new row, and its old row
    becomes a tombstone, which `rows` does not find.

    Attributes:
        epoch: Rows are reassigned only with a new epoch.
        post_ids: int64 (n).
        author_ids: int64 (n).
        created_at: float64 (n), unix seconds.
        deleted: bool (n), soft-deleted posts and tombstones, as read; `is_deleted` knows of more.
        interactions: int64 (n), likes and comments.
        fingerprints: int64 (n), digest of a row's embeddings, equal in every process; 0 for none.
        max_interactions: The highest count among posts that were not deleted when this was read, 0 for none.
        arrived_at: float64 (n), the database's time of the reading that brought the row; never descending.
        embeddings: Rows [0, n) are written, and never change within an epoch.
        read_at: The database's time when all this was read, in unix seconds; where its clock has stepped
            back, a moment after that of the snapshot before.
        posts_read_at: `time.monotonic()` when the reading of the posts began.
        blocks_read_at: `time.monotonic()` when the last successful reading of the blocks began.
        feed: The posts that were not deleted when this was read, by age; ask `deleted` which of them are now.
        index: Row of each post id, tombstones left out.
        relations: Users who are blocked by, or block, each user.
        seen_base: Posts by user, from interactions older than the recount window when they were last counted.
        seen_recent: Posts by user, from the interactions within it.
        seen_later: Posts by user, from those between the two.
        notified_deleted: int64 (k), ascending, rows of posts that were deleted since the reading.
        changed_late: Posts that were changed long after they were made, by the time of the change, as they
            were when the epoch began. They may have become visible with the change.
    """

    epoch: int
    post_ids: IntArray
    author_ids: IntArray
    created_at: DoubleArray
    deleted: BoolArray
    interactions: IntArray
    fingerprints: IntArray
    max_interactions: int
    arrived_at: DoubleArray
    embeddings: EmbeddingFile
    read_at: float
    posts_read_at: float
    blocks_read_at: float
    feed: FeedIndex
    index: IdMap
    relations: Relations
    seen_base: CsrIndex
    seen_recent: CsrIndex
    seen_later: CsrIndex = field(default_factory=CsrIndex.empty)
    notified_deleted: IntArray = field(default_factory=lambda: NO_ROWS)
    changed_late: FeedIndex = field(default_factory=FeedIndex.empty)

    def __len__(self) -> int:
        """Rows, tombstones included."""
        return len(self.post_ids)

    @property
    def loaded_at(self) -> float:
        """The database's time of this catalog's own load, in unix seconds; of the oldest row that is left."""
        return float(self.arrived_at.item(0)) if len(self) else self.read_at

    def rows(self, post_ids: IntArray) -> IntArray:
        """Rows int64 (m) of posts int64 (m), -1 for unknown ones."""
        return self.index.find(post_ids)

    def newer_than(self, read_at: float, limit: int = 100_000) -> IntArray:
        """Rows int64 (m) of undeleted posts that a catalog read at a time (the database's) did not have.

        They ascend. For a time before this catalog's own load, posts that were made or changed up to
        LATE_COMMIT seconds before it are taken to be newer too: those that it did have come along.

        Args:
            read_at: The time, in unix seconds.
            limit: Of more posts that arrived, were made or were changed since, so many are looked at of each,
                the latest.
        """
        first = int(self.arrived_at.searchsorted(read_at, side="right"))
        if first == len(self):
            return NO_ROWS
        loaded = NO_ROWS
        if not first:
            # Of the load, what was made or changed lately; the work must not grow with all that was loaded.
            first = int(self.arrived_at.searchsorted(self.arrived_at[0], side="right"))
            since = read_at - LATE_COMMIT
            loaded = np.sort(self.feed.newest(since, limit), kind="stable")  # they nearly ascend
            changed = self.changed_late.newest(since, limit)
            if len(changed):
                loaded = np.union1d(loaded, changed)
            loaded = loaded[: loaded.searchsorted(first)]
        arrived = np.concatenate((loaded, np.arange(max(first, len(self) - limit), len(self))))
        return arrived[~self.is_deleted(arrived)]

    def has_changed_since(self, read_at: float) -> bool:
        """Whether any post, if only a deleted one, arrived after a time (the database's); see newer_than."""
        return bool(len(self) and self.arrived_at.item(-1) > read_at)

    def is_deleted(self, rows: IntArray) -> BoolArray:
        """Whether the posts at rows int64 (m) are deleted, as read or as notified since: bool (m).

        It may be anything for a row of -1.
        """
        if not len(self.deleted):
            return np.zeros(len(rows), np.bool_)
        deleted: BoolArray = self.deleted[rows]
        if len(self.notified_deleted):
            at = self.notified_deleted.searchsorted(rows)
            deleted |= self.notified_deleted.take(at, mode="clip") == rows
        return deleted

    def has_embeddings(self, rows: IntArray) -> BoolArray:
        """Whether each of the rows int64 (m) has an embedding that is not all zeros: bool (m)."""
        return np.not_equal(self.fingerprints[rows], 0)

    def with_relations(self, relations: Relations, blocks_read_at: float) -> "CatalogSnapshot":
        """This snapshot with the blocks of another reading, if that began later than its own."""
        if blocks_read_at <= self.blocks_read_at:
            return self
        return replace(self, relations=relations, blocks_read_at=blocks_read_at)

    def related_authors(self, user_id: int) -> IntArray:
        """Users whom the user blocks or who block the user: int64 (k), ascending."""
        return self.relations.members_of(user_id)

    def related_authors_of_each(self, user_ids: IntArray) -> dict[int, IntArray]:
        """By position in user_ids int64 (k), the related authors of those who have any."""
        return self.relations.members_of_each(user_ids)

    def seen_posts(self, user_id: int) -> IntArray:
        """Posts that the user liked or commented on in the window: int64 (k), ascending, repeats included."""
        base = self.seen_base.members_of(user_id)
        later = [groups.members_of(user_id) for groups in (self.seen_later, self.seen_recent)]
        return np.sort(np.concatenate((base, *later))) if any(map(len, later)) else base

    @property
    def nbytes(self) -> int:
        """Memory of all of it but the embeddings."""
        columns = (
            self.post_ids, self.author_ids, self.created_at, self.deleted, self.interactions,
            self.fingerprints, self.arrived_at, self.feed, self.changed_late, self.index, self.relations,
            self.seen_base, self.seen_later, self.seen_recent,
        )  # fmt: skip
        return sum(column.nbytes for column in columns)
