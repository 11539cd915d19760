"""The catalog snapshot: an immutable state of posts, interactions and blocks."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from animora_server.catalog.embeddings import EmbeddingFile
from animora_server.catalog.histories import Histories, History, HistoryBatch
from animora_server.catalog.index import CsrIndex, FeedIndex, IdMap
from animora_server.types import BoolArray, DoubleArray, IntArray

NO_ROWS = np.empty(0, np.int64)
LATE_COMMIT = 60.0  # seconds between a post's created_at and its commit, at most
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


@dataclass(frozen=True, slots=True)
class CatalogSnapshot:
    """Posts by row, interactions and blocks; immutable.

    Within an epoch a row belongs to one post with one content: a post whose content changed moves to a new
    row, and its old row becomes a tombstone, which `rows` does not find.

    Attributes:
        epoch: Increases whenever rows are renumbered.
        post_ids: int64 (n).
        author_ids: int64 (n).
        created_at: float64 (n), unix seconds.
        deleted: bool (n), soft-deleted posts and tombstones as of the reading. `is_deleted` also includes
            notified deletions.
        interactions: int64 (n), the number of likes and comments.
        fingerprints: int64 (n), a digest of the row's embeddings, equal in every process; 0 for none.
        max_interactions: The highest count among the undeleted posts of the reading; 0 without posts.
        arrived_at: float64 (n), the database's time (unix seconds) of the reading that brought the row; never
            descending.
        embeddings: Rows [0, n) are written and never change within an epoch.
        read_at: The database's time of the reading, in unix seconds. Greater than that of the previous
            snapshot, even if the database's clock stepped back.
        posts_read_at: `time.monotonic()` when the reading of the posts began.
        blocks_read_at: `time.monotonic()` when the last successful reading of the blocks began.
        feed: The undeleted posts of the reading, by age. Some may have been deleted since; see is_deleted.
        index: The row of each post id, without tombstones.
        relations: Blocks between users.
        seen_base: Seen posts by user, from interactions older than the recount window at the last reconcile.
        seen_recent: Seen posts by user, from interactions within the recount window.
        seen_later: Seen posts by user, from interactions between those two.
        histories: The last interactions of each user, of those that `seen_base`, `seen_later` and
            `seen_recent` cover.
        notified_deleted: int64 (k), ascending, rows of posts that were deleted since the reading.
        changed_late: The posts edited more than LATE_COMMIT after they were made, by the time of the edit,
            as of the start of the epoch. The edit may have made them visible.
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
    histories: Histories = field(default_factory=Histories)
    notified_deleted: IntArray = field(default_factory=lambda: NO_ROWS)
    changed_late: FeedIndex = field(default_factory=FeedIndex.empty)

    def __len__(self) -> int:
        """The number of rows, including tombstones."""
        return len(self.post_ids)

    @property
    def loaded_at(self) -> float:
        """The database's time of the first load, in unix seconds: the arrival of the oldest remaining row."""
        return float(self.arrived_at.item(0)) if len(self) else self.read_at

    def rows(self, post_ids: IntArray) -> IntArray:
        """Rows int64 (m) of posts int64 (m), -1 for unknown ones."""
        return self.index.find(post_ids)

    def newer_than(self, read_at: float, limit: int = 100_000) -> IntArray:
        """The undeleted posts that a snapshot read at a time did not have: rows int64 (m), ascending.

        Args:
            read_at: The database's time, in unix seconds. If it is before this catalog's first load, posts
                made or edited up to LATE_COMMIT seconds before it are included, although that snapshot may
                have had them.
            limit: The number of posts considered, at most, of those that arrived, of those made and of those
                edited since: the latest.
        """
        first = int(self.arrived_at.searchsorted(read_at, side="right"))
        if first == len(self):
            return NO_ROWS
        loaded = NO_ROWS
        if not first:
            # Of the first load only posts made or edited lately: the time must not grow with the catalog.
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
        """Whether any post, even a deleted one, arrived after a database time in unix seconds."""
        return bool(len(self) and self.arrived_at.item(-1) > read_at)

    def is_deleted(self, rows: IntArray) -> BoolArray:
        """Whether the posts at rows int64 (m) are deleted, by the reading or by an event since: bool (m).

        The result for a row of -1 is arbitrary.
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
        """This snapshot with the blocks of another reading, if that began later."""
        if blocks_read_at <= self.blocks_read_at:
            return self
        return replace(self, relations=relations, blocks_read_at=blocks_read_at)

    def related_authors(self, user_id: int) -> IntArray:
        """The users that a user blocks or is blocked by: int64 (k), ascending."""
        return self.relations.members_of(user_id)

    def related_authors_of_each(self, user_ids: IntArray) -> dict[int, IntArray]:
        """The related authors of each user with any, by position in user_ids int64 (k)."""
        return self.relations.members_of_each(user_ids)

    def seen_posts(self, user_id: int) -> IntArray:
        """Posts that the user liked or commented on in the seen window: int64 (k), ascending, repeated."""
        base = self.seen_base.members_of(user_id)
        later = [index.members_of(user_id) for index in (self.seen_later, self.seen_recent)]
        return np.sort(np.concatenate((base, *later))) if any(map(len, later)) else base

    def history_of(self, user_id: int) -> History:
        """The user's last interactions within the seen window, oldest first; see histories_of_each."""
        return self.histories.of_each(np.array([user_id], np.int64))[0]

    def histories_of_each(self, user_ids: IntArray) -> HistoryBatch:
        """The last interactions of users int64 (u) within the seen window, by position, oldest first.

        A like or comment is in the history after the first refresh that begins after its commit, at the place
        of its time, and one that was taken back has left it. If its time lies before the recount window, this
        happens at the next reconcile.
        """
        return self.histories.of_each(user_ids)

    @property
    def nbytes(self) -> int:
        """Bytes of memory, without the embeddings."""
        columns = (
            self.post_ids, self.author_ids, self.created_at, self.deleted, self.interactions,
            self.fingerprints, self.arrived_at, self.feed, self.changed_late, self.index, self.relations,
            self.seen_base, self.seen_later, self.seen_recent, self.histories,
        )  # fmt: skip
        return sum(column.nbytes for column in columns)
