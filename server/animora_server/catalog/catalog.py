"""Posts, interactions and blocks together, as one refresh leaves them to the next."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import numpy as np

from animora_server.catalog.feed import FeedIndex
from animora_server.catalog.index import ABSENT, CsrIndex, IdMap
from animora_server.catalog.records import POSTGRES_EPOCH, IdPairs
from animora_server.catalog.relations import Relations
from animora_server.catalog.snapshot import LATE_COMMIT, CatalogSnapshot
from animora_server.catalog.table import CatalogPosts
from animora_server.types import IntArray


@dataclass(frozen=True, slots=True)
class InteractionBase:
    """Interactions older than a moment, as they were counted once.

    Attributes:
        until: The moment; what is newer is recounted at each refresh.
        counts: Interactions by post, unknown posts included: they may become known.
        seen: Posts by user, within the seen window, as they were counted.
        later: The same of interactions that were added since.
        number: How many bases of this catalog there were before.
    """

    until: datetime
    counts: IdMap
    seen: CsrIndex
    later: CsrIndex = field(default_factory=CsrIndex.empty)
    number: int = 0

    def extended(self, until: datetime, interactions: IdPairs) -> "InteractionBase":
        """This base and the interactions (user, post) from its moment up to another."""
        ids, counts = np.unique(interactions.second, return_counts=True)
        all_ids = np.union1d(self.counts.ids, ids)
        sums = np.maximum(self.counts.find(all_ids), 0)
        sums[np.searchsorted(all_ids, ids)] += counts
        users, posts = self.later.pairs()
        later = CsrIndex.of(
            np.concatenate((users, interactions.first)), np.concatenate((posts, interactions.second))
        )
        return replace(self, until=until, counts=IdMap.of(all_ids, sums), later=later)


@dataclass(frozen=True, slots=True)
class Activity:
    """What users did, as one refresh found it.

    Attributes:
        base: Interactions up to `base.until`.
        recent: Users and posts of the interactions since then.
        blocks: Blockers and blocked.
        read_at: The database's time when all this was read, in unix seconds.
        began_at: `time.monotonic()` when all this was about to be read.
    """

    base: InteractionBase
    recent: IdPairs
    blocks: IdPairs
    read_at: float
    began_at: float


@dataclass(frozen=True, slots=True)
class Catalog:
    """All that is known, immutable; each refresh makes the next.

    Attributes:
        posts: The table of posts.
        activity: What users did.
        base_counts: int64 (n), interactions of the base by row.
        snapshot: What requests see of it.
    """

    posts: CatalogPosts
    activity: Activity
    base_counts: IntArray
    snapshot: CatalogSnapshot

    @classmethod
    def empty(cls, directory: Path | None) -> Self:
        """Nothing is known; embeddings will be kept in a directory, or in the system's temporary one."""
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
        activity = Activity(base, IdPairs.empty(), IdPairs.empty(), snapshot.read_at, snapshot.posts_read_at)
        return cls(posts, activity, posts.post_ids, snapshot)

    def refreshed(self, posts: CatalogPosts, activity: Activity) -> "Catalog":
        """The catalog with another table and other activity; what did not change is shared."""
        before = self.activity
        base_counts = self._base_counts(posts, activity.base)
        interactions = base_counts + _counts_by_row(posts, activity.recent)
        same_recent = activity.recent.same_as(before.recent)
        same_blocks = activity.blocks.same_as(before.blocks)
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
            else CsrIndex.of(activity.recent.first, activity.recent.second),
            changed_late=self.snapshot.changed_late
            if posts.epoch == self.posts.epoch
            else _changed_late(posts),
        )
        return Catalog(posts, activity, base_counts, snapshot)

    def _base_counts(self, posts: CatalogPosts, base: InteractionBase) -> IntArray:
        """Interactions of the base by row; only rows that are new to this epoch and base are looked up."""
        known = self.base_counts
        if base is not self.activity.base or posts.epoch != self.posts.epoch:
            known = known[:0]
        if len(known) == len(posts):
            return known
        return np.concatenate((known, np.maximum(base.counts.find(posts.post_ids[len(known) :]), 0)))

    def _feed(self, posts: CatalogPosts) -> FeedIndex:
        if posts is self.posts:
            return self.snapshot.feed
        before = self.snapshot.feed if posts.epoch == self.posts.epoch else FeedIndex.empty()
        return before.updated(posts)

    @property
    def nbytes(self) -> int:
        """Memory of all of it but the embeddings."""
        activity = self.activity
        pairs = (activity.recent.first, activity.recent.second, activity.blocks.first, activity.blocks.second)
        return (
            self.snapshot.nbytes
            + self.posts.nbytes
            + self.base_counts.nbytes
            + activity.base.counts.nbytes
            + sum(column.nbytes for column in pairs)
        )


def _counts_by_row(posts: CatalogPosts, interactions: IdPairs) -> IntArray:
    """How many of the interactions (user, post) are of the post of each row: int64 (n)."""
    rows = posts.index.find(interactions.second)
    return np.bincount(rows[rows != ABSENT], minlength=len(posts)).astype(np.int64)


def _changed_late(posts: CatalogPosts) -> FeedIndex:
    """The posts that were changed long after they were made, by the time of the change."""
    changed_at = posts.updated_at / 1e6 + POSTGRES_EPOCH  # float64 (n), unix seconds; for NEVER long ago
    return FeedIndex.of(
        changed_at, np.flatnonzero((changed_at > posts.created_at + LATE_COMMIT) & ~posts.deleted)
    )
