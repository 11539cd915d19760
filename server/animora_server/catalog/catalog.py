"""The catalog: posts, interactions and blocks, from which each refresh makes the next."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import numpy as np

from animora_database.copy_format import POSTGRES_EPOCH
from animora_server.catalog.histories import Histories, HistoryIndex
from animora_server.catalog.index import ABSENT, CsrIndex, FeedIndex, IdMap
from animora_server.catalog.records import IdPairs, Interactions
from animora_server.catalog.snapshot import LATE_COMMIT, CatalogSnapshot, Relations
from animora_server.catalog.table import CatalogPosts
from animora_server.types import IntArray


@dataclass(frozen=True, slots=True)
class InteractionBase:
    """Interactions older than `until`, which are counted once a reconcile and not at each refresh.

    Attributes:
        until: Newer interactions are counted at each refresh.
        counts: The number of interactions by post. It includes posts that are unknown now.
        seen: Posts by user within the seen window, as counted by the reconcile.
        later: Posts by user from interactions that were added to the base after the reconcile.
        histories: Histories of the same interactions as `seen` and `later`.
        number: The number of earlier bases of this catalog.
    """

    until: datetime
    counts: IdMap
    seen: CsrIndex
    later: CsrIndex = field(default_factory=CsrIndex.empty)
    histories: Histories = field(default_factory=Histories)
    number: int = 0

    def extended(self, until: datetime, interactions: Interactions) -> "InteractionBase":
        """This base plus interactions made between its `until` and a later moment."""
        ids, counts = np.unique(interactions.post_ids, return_counts=True)
        all_ids = np.union1d(self.counts.ids, ids)
        sums = np.maximum(self.counts.find(all_ids), 0)
        sums[np.searchsorted(all_ids, ids)] += counts
        users, posts = self.later.pairs()
        later = CsrIndex.of(
            np.concatenate((users, interactions.user_ids)), np.concatenate((posts, interactions.post_ids))
        )
        histories = self.histories.extended(interactions)
        return replace(self, until=until, counts=IdMap.of(all_ids, sums), later=later, histories=histories)


@dataclass(frozen=True, slots=True)
class Activity:
    """Interactions and blocks, as one reading found them.

    Attributes:
        base: Interactions up to `base.until`.
        recent: Interactions since `base.until`.
        blocks: Blockers and blocked users.
        read_at: The database's time of the reading, in unix seconds.
        began_at: `time.monotonic()` before the reading began.
    """

    base: InteractionBase
    recent: Interactions
    blocks: IdPairs
    read_at: float
    began_at: float


@dataclass(frozen=True, slots=True)
class Catalog:
    """The immutable state from which a refresh makes the next one.

    Attributes:
        posts: The table of posts.
        activity: Interactions and blocks.
        base_counts: int64 (n), the number of the base's interactions by row.
        snapshot: The snapshot for requests.
    """

    posts: CatalogPosts
    activity: Activity
    base_counts: IntArray
    snapshot: CatalogSnapshot

    @classmethod
    def empty(cls, directory: Path | None) -> Self:
        """A catalog before its first load. Embeddings go to `directory`, or to the system's temporary one."""
        posts = CatalogPosts.empty(directory)
        base = InteractionBase(datetime.min.replace(tzinfo=UTC), IdMap.empty(), CsrIndex.empty())
        snapshot = CatalogSnapshot(
            epoch=posts.epoch,
            post_ids=posts.post_ids,
            author_ids=posts.author_ids,
            created_at=posts.created_at,
            deleted=posts.deleted,
            interactions=posts.post_ids,
            fingerprints=posts.fingerprints,
            max_interactions=0,
            arrived_at=posts.arrived_at,
            embeddings=posts.embeddings,
            read_at=float("-inf"),
            posts_read_at=float("-inf"),
            blocks_read_at=float("-inf"),
            feed=FeedIndex.empty(),
            index=posts.index,
            relations=Relations.empty(),
            seen_base=base.seen,
            seen_recent=CsrIndex.empty(),
        )
        activity = Activity(
            base, Interactions.empty(), IdPairs.empty(), snapshot.read_at, snapshot.posts_read_at
        )
        return cls(posts, activity, posts.post_ids, snapshot)

    def refreshed(self, posts: CatalogPosts, activity: Activity) -> "Catalog":
        """The catalog with a new table and new activity. Unchanged arrays are shared."""
        previous = self.activity
        base_counts = self._base_counts(posts, activity.base)
        interactions = base_counts + _counts_by_row(posts, activity.recent)
        same_recent = activity.recent.same_as(previous.recent)
        same_blocks = activity.blocks.same_as(previous.blocks)
        snapshot = CatalogSnapshot(
            epoch=posts.epoch,
            post_ids=posts.post_ids,
            author_ids=posts.author_ids,
            created_at=posts.created_at,
            deleted=posts.deleted,
            interactions=interactions,
            fingerprints=posts.fingerprints,
            max_interactions=int(interactions.max(where=~posts.deleted, initial=0)),
            arrived_at=posts.arrived_at,
            embeddings=posts.embeddings,
            read_at=activity.read_at,
            posts_read_at=activity.began_at,
            blocks_read_at=activity.began_at,
            feed=self._feed(posts),
            index=posts.index,
            relations=self.snapshot.relations
            if same_blocks
            else Relations.of(activity.blocks.first, activity.blocks.second),
            seen_base=activity.base.seen,
            seen_later=activity.base.later,
            seen_recent=self.snapshot.seen_recent
            if same_recent
            else CsrIndex.of(activity.recent.user_ids, activity.recent.post_ids),
            histories=activity.base.histories.with_recent(
                self.snapshot.histories.recent
                if same_recent
                else HistoryIndex.of(activity.recent, activity.base.histories.limit)
            ),
            changed_late=self.snapshot.changed_late
            if posts.epoch == self.posts.epoch
            else _changed_late(posts),
        )
        return Catalog(posts, activity, base_counts, snapshot)

    def _base_counts(self, posts: CatalogPosts, base: InteractionBase) -> IntArray:
        """int64 (n), the base's interactions by row. Only rows new to this epoch and base are looked up."""
        known = self.base_counts
        if base is not self.activity.base or posts.epoch != self.posts.epoch:
            known = known[:0]
        if len(known) == len(posts):
            return known
        return np.concatenate((known, np.maximum(base.counts.find(posts.post_ids[len(known) :]), 0)))

    def _feed(self, posts: CatalogPosts) -> FeedIndex:
        if posts is self.posts:
            return self.snapshot.feed
        previous = self.snapshot.feed if posts.epoch == self.posts.epoch else FeedIndex.empty()
        return previous.updated(posts.created_at, posts.deleted)

    @property
    def nbytes(self) -> int:
        """Bytes of memory, without the embeddings."""
        activity = self.activity
        return (
            self.snapshot.nbytes
            + self.posts.nbytes
            + self.base_counts.nbytes
            + activity.base.counts.nbytes
            + activity.recent.nbytes
            + activity.blocks.first.nbytes
            + activity.blocks.second.nbytes
        )


def _counts_by_row(posts: CatalogPosts, interactions: Interactions) -> IntArray:
    """The number of interactions with the post of each row: int64 (n)."""
    rows = posts.index.find(interactions.post_ids)
    return np.bincount(rows[rows != ABSENT], minlength=len(posts)).astype(np.int64)


def _changed_late(posts: CatalogPosts) -> FeedIndex:
    """The posts that were edited more than LATE_COMMIT after they were made, by the time of the edit."""
    changed_at = posts.updated_at / 1e6 + POSTGRES_EPOCH  # float64 (n), unix seconds; for NEVER long ago
    return FeedIndex.of(
        changed_at, np.flatnonzero((changed_at > posts.created_at + LATE_COMMIT) & ~posts.deleted)
    )
