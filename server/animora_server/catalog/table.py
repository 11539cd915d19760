"""The posts by row, as one refresh leaves them to the next."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from animora_server.catalog.embeddings import EmbeddingFile
from animora_server.catalog.index import ABSENT, IdMap
from animora_server.catalog.records import NO_EMBEDDING, PostRecords
from animora_server.catalog.widths import FoundWidths, Widths
from animora_server.types import BoolArray, DoubleArray, IntArray

MIN_TOMBSTONES = 1024  # fewer are not worth a new epoch, for which every post is encoded again


@dataclass(frozen=True, slots=True)
class CatalogPosts:
    """Posts by row; the columns are those of `CatalogSnapshot`, and what only the next refresh needs.

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
        image_widths: int32 (n), how wide the database's image embedding is: 0 where it cannot be used,
            NO_EMBEDDING where it is null. Only those as wide as `embeddings` are kept there.
        caption_widths: int32 (n), the same of caption embeddings.
        index: Row of each post id, tombstones left out.
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
        """No posts; embeddings will be kept in a directory, or in the system's temporary one."""
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
        """Rows, tombstones included."""
        return len(self.post_ids)

    def outdated(self, found: PostRecords) -> BoolArray:
        """Which posts found are unknown here or were edited, so that embeddings are needed: bool (k)."""
        rows = self.index.find(found.ids)
        known = np.not_equal(rows, ABSENT)
        at = rows[known]
        outdated = np.logical_not(known)
        outdated[known] = (self.updated_at[at] != found.updated_at[known]) | self.replaced(
            at, found.take(np.flatnonzero(known))
        )
        return outdated

    def replaced(self, rows: IntArray, found: PostRecords) -> BoolArray:
        """Which posts at rows int64 (k) older timelines may lack as they were found (k): bool (k).

        Another author or time of creation is another post of the same id, as after a TRUNCATE; a post that
        was restored was not in the feed before.
        """
        replaced: BoolArray = (
            (self.author_ids[rows] != found.author_ids)
            | (self.created_at[rows] != found.created_at)
            | (self.deleted[rows] & ~found.deleted)
        )
        return replaced

    def missing(self, found: PostRecords) -> IntArray:
        """Ids int64 (k) of posts here that are not among all posts found."""
        return np.setdiff1d(self.index.ids, found.ids, assume_unique=True)

    def lacking(self, since: float, most: int | None = None) -> tuple[IntArray, IntArray]:
        """Ids of undeleted posts made since a time (unix seconds) without an image, and without a caption.

        Args:
            since: The time.
            most: Of each, at most so many are given, the youngest; None gives all.
        """
        young = np.flatnonzero((self.created_at >= since) & ~self.deleted)
        return (
            self._youngest(young[self.image_widths[young] == NO_EMBEDDING], most),
            self._youngest(young[self.caption_widths[young] == NO_EMBEDDING], most),
        )

    def _youngest(self, rows: IntArray, most: int | None) -> IntArray:
        """Ids int64 (k) of posts at rows int64 (m)."""
        if most is not None and len(rows) > most:
            rows = rows[np.argpartition(self.created_at[rows], -most)[-most:]]
        return self.post_ids[rows]

    def records(self, ids: IntArray) -> PostRecords:
        """What is known of posts int64 (k), all of which are here.

        Raises:
            LookupError: A post is not here.
        """
        rows = self.index.get(ids)
        return PostRecords(
            ids, self.author_ids[rows], self.created_at[rows], self.updated_at[rows], self.deleted[rows]
        ).distinct()

    def without_many_tombstones(self) -> "CatalogPosts":
        """This table, or one of a new epoch with the posts alone once tombstones pass a quarter of the rows.

        Raises:
            OSError: The new embeddings cannot be written.
        """
        tombstones = len(self) - len(self.index)
        if tombstones <= max(MIN_TOMBSTONES, len(self) // 4):
            return self
        return self._of_rows(np.sort(self.index.values), self.epoch + 1)

    def in_order_of(self, before: "CatalogPosts") -> "CatalogPosts":
        """This table with its rows in the order of another table's posts, in the epoch after that one's.

        Raises:
            LookupError: The other table lacks a post.
            OSError: The new embeddings cannot be written.
        """
        rows_before = before.index.get(self.post_ids)
        order = np.argsort(rows_before)
        return replace(
            self._of_rows(order, before.epoch + 1), arrived_at=before.arrived_at[rows_before[order]]
        )

    def found_widths(self) -> tuple[FoundWidths, FoundWidths]:
        """The image and the caption widths of all posts, soft-deleted ones too: int32 (posts) each."""
        rows = self.index.values
        return self.image_widths[rows], self.caption_widths[rows]

    def unusable(self) -> Widths:
        """How many image and caption embeddings count as absent."""
        images, captions = self.found_widths()
        kept = self.embeddings.widths
        return Widths(_unlike(images, kept.image), _unlike(captions, kept.caption))

    def _of_rows(self, rows: IntArray, epoch: int) -> "CatalogPosts":
        """The posts at rows int64 (k) alone, none of them a tombstone, in that order."""
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
        """Memory of the columns that a snapshot does not share."""
        return self.updated_at.nbytes + self.image_widths.nbytes + self.caption_widths.nbytes


def _unlike(found: FoundWidths, kept: int) -> int:
    """How many embeddings of widths int32 (k) are there, but cannot be kept."""
    return int(np.count_nonzero((found != NO_EMBEDDING) & ((found != kept) | (found == 0))))
