"""The table of posts by row, from which each refresh makes the next."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from animora_database.embeddings import NO_EMBEDDING
from animora_server.catalog.embeddings import EmbeddingFile
from animora_server.catalog.index import ABSENT, IdMap
from animora_server.catalog.records import PostRecords
from animora_server.catalog.widths import FoundWidths, Widths
from animora_server.types import BoolArray, DoubleArray, IntArray

MIN_TOMBSTONES = 1024  # fewer are not worth a new epoch, in which every post is encoded again


@dataclass(frozen=True, slots=True)
class CatalogPosts:
    """Posts by row: the columns of `CatalogSnapshot`, and columns that only the next refresh needs.

    Attributes:
        epoch: 0 before the first load.
        post_ids: int64 (n).
        author_ids: int64 (n).
        created_at: float64 (n), unix seconds.
        updated_at: int64 (n), as in `PostRecords`.
        deleted: bool (n), soft-deleted posts and tombstones.
        fingerprints: int64 (n).
        arrived_at: float64 (n), the database's time (unix seconds) of the reading that brought the row;
            never descending, since rows are appended.
        image_widths: int32 (n), the width of the database's image embedding: 0 if it is unusable,
            NO_EMBEDDING if it is null. `embeddings` holds only those of its width.
        caption_widths: int32 (n), the width of the database's caption embedding, likewise.
        index: The row of each post id, without tombstones.
        embeddings: Rows [0, n) are written.
    """

    epoch: int
    post_ids: IntArray
    author_ids: IntArray
    created_at: DoubleArray
    updated_at: IntArray
    deleted: BoolArray
    fingerprints: IntArray
    arrived_at: DoubleArray
    image_widths: FoundWidths
    caption_widths: FoundWidths
    index: IdMap
    embeddings: EmbeddingFile

    @classmethod
    def empty(cls, directory: Path | None) -> Self:
        """A table without posts. Embeddings go to `directory`, or to the system's temporary one."""
        ids, flags, found = np.empty(0, np.int64), np.empty(0, np.bool_), np.empty(0, np.int32)
        return cls(
            epoch=0,
            post_ids=ids,
            author_ids=ids,
            created_at=np.empty(0, np.float64),
            updated_at=ids,
            deleted=flags,
            fingerprints=ids,
            arrived_at=np.empty(0, np.float64),
            image_widths=found,
            caption_widths=found,
            index=IdMap.empty(),
            embeddings=EmbeddingFile(directory, 0, 0),
        )

    def __len__(self) -> int:
        """The number of rows, including tombstones."""
        return len(self.post_ids)

    def outdated(self, found: PostRecords) -> BoolArray:
        """Which of k found posts are new or were edited, so their embeddings must be read: bool (k)."""
        rows = self.index.find(found.ids)
        known = np.not_equal(rows, ABSENT)
        at = rows[known]
        outdated = np.logical_not(known)
        outdated[known] = (self.updated_at[at] != found.updated_at[known]) | self.replaced(
            at, found.take(np.flatnonzero(known))
        )
        return outdated

    def replaced(self, rows: IntArray, found: PostRecords) -> BoolArray:
        """Which of k known posts must move to a new row, so that they count as newer posts: bool (k).

        A different author or time of creation means a different post with the same id, as after a TRUNCATE. A
        restored post was not in the feed before.

        Args:
            rows: int64 (k), the posts' rows in this table.
            found: The posts as the database has them now.
        """
        replaced: BoolArray = (
            (self.author_ids[rows] != found.author_ids)
            | (self.created_at[rows] != found.created_at)
            | (self.deleted[rows] & ~found.deleted)
        )
        return replaced

    def missing(self, found: PostRecords) -> IntArray:
        """Ids int64 (k) of this table's posts that are not among all posts found."""
        return np.setdiff1d(self.index.ids, found.ids, assume_unique=True)

    def without_embeddings(self, since: float, limit: int | None = None) -> tuple[IntArray, IntArray]:
        """Ids int64 (k) of undeleted posts without an image embedding, and of those without a caption.

        Args:
            since: Only posts made since then, in unix seconds.
            limit: At most this many of each, the youngest; None for all.
        """
        young = np.flatnonzero((self.created_at >= since) & ~self.deleted)
        return (
            self._youngest(young[self.image_widths[young] == NO_EMBEDDING], limit),
            self._youngest(young[self.caption_widths[young] == NO_EMBEDDING], limit),
        )

    def _youngest(self, rows: IntArray, limit: int | None) -> IntArray:
        """Ids int64 (k) of the youngest posts among rows int64 (m), at most `limit`."""
        if limit is not None and len(rows) > limit:
            rows = rows[np.argpartition(self.created_at[rows], -limit)[-limit:]]
        return self.post_ids[rows]

    def records(self, ids: IntArray) -> PostRecords:
        """The records of posts int64 (k).

        Raises:
            LookupError: A post is not in the table.
        """
        rows = self.index.get(ids)
        return PostRecords(
            ids, self.author_ids[rows], self.created_at[rows], self.updated_at[rows], self.deleted[rows]
        ).distinct()

    def compacted(self) -> "CatalogPosts":
        """This table, or one of a new epoch without tombstones if they exceed a quarter of the rows.

        Raises:
            OSError: The new embeddings cannot be written.
        """
        tombstones = len(self) - len(self.index)
        if tombstones <= max(MIN_TOMBSTONES, len(self) // 4):
            return self
        return self._of_rows(np.sort(self.index.values), self.epoch + 1)

    def in_order_of(self, other: "CatalogPosts") -> "CatalogPosts":
        """This table with its rows in the order of another table, in the epoch after the other's.

        Raises:
            LookupError: The other table lacks a post.
            OSError: The new embeddings cannot be written.
        """
        other_rows = other.index.get(self.post_ids)
        order = np.argsort(other_rows)
        return replace(self._of_rows(order, other.epoch + 1), arrived_at=other.arrived_at[other_rows[order]])

    def found_widths(self) -> tuple[FoundWidths, FoundWidths]:
        """The image and the caption widths of all posts, including soft-deleted ones: int32 (posts) each."""
        rows = self.index.values
        return self.image_widths[rows], self.caption_widths[rows]

    def unusable(self) -> Widths:
        """The number of image and of caption embeddings that count as absent."""
        images, captions = self.found_widths()
        kept = self.embeddings.widths
        return Widths(_count_unusable(images, kept.image), _count_unusable(captions, kept.caption))

    def _of_rows(self, rows: IntArray, epoch: int) -> "CatalogPosts":
        """A table of only the posts at rows int64 (k), in that order. No row may be a tombstone."""
        post_ids = self.post_ids[rows]
        return CatalogPosts(
            epoch=epoch,
            post_ids=post_ids,
            author_ids=self.author_ids[rows],
            created_at=self.created_at[rows],
            updated_at=self.updated_at[rows],
            deleted=self.deleted[rows],
            fingerprints=self.fingerprints[rows],
            arrived_at=self.arrived_at[rows],
            image_widths=self.image_widths[rows],
            caption_widths=self.caption_widths[rows],
            index=IdMap.of(post_ids, np.arange(len(rows))),
            embeddings=self.embeddings.compacted(rows),
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the columns that a snapshot does not share."""
        return self.updated_at.nbytes + self.image_widths.nbytes + self.caption_widths.nbytes


def _count_unusable(found: FoundWidths, kept: int) -> int:
    """The number of embeddings, given their widths int32 (k), that are not null and cannot be kept."""
    return int(np.count_nonzero((found != NO_EMBEDDING) & ((found != kept) | (found == 0))))
