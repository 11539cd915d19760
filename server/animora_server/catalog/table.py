"""The posts by row, as one refresh leaves them to the next."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from animora_server.catalog.embeddings import EmbeddingFile
from animora_server.catalog.lookup import ABSENT, IdMap
from animora_server.catalog.records import PostRecords
from animora_server.types import BoolArray, DoubleArray, IntArray

MIN_TOMBSTONES = 1024  # fewer are not worth a new epoch, for which every post is encoded again


@dataclass(frozen=True, slots=True)
class PostTable:
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
        no_image: bool (n), the image embedding was null.
        no_caption: bool (n), the caption embedding was null.
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
    no_image: BoolArray
    no_caption: BoolArray
    index: IdMap
    embeddings: EmbeddingFile

    @classmethod
    def empty(cls, directory: Path | None) -> Self:
        """No posts; embeddings will be kept in a directory, or in the system's temporary one."""
        ids, flags = np.empty(0, np.int64), np.empty(0, np.bool_)
        return cls(
            epoch=0,
            post_ids=ids,
            author_ids=ids,
            created_at=np.empty(0, np.float64),
            updated_at=ids,
            deleted=flags,
            fingerprints=ids,
            arrived_at=np.empty(0, np.float64),
            no_image=flags,
            no_caption=flags,
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
        outdated[known] = (self.updated_at[at] != found.updated_at[known]) | (
            self.author_ids[at] != found.author_ids[known]
        )
        return outdated

    def missing(self, found: PostRecords) -> IntArray:
        """Ids int64 (k) of posts here that are not among all posts found."""
        return np.setdiff1d(self.index.ids, found.ids, assume_unique=True)

    def lacking(self, since: float) -> tuple[IntArray, IntArray]:
        """Ids of undeleted posts made since a time (unix seconds) without an image, and without a caption."""
        young = (self.created_at >= since) & ~self.deleted
        return self.post_ids[young & self.no_image], self.post_ids[young & self.no_caption]

    def records(self, ids: IntArray) -> PostRecords:
        """What is known of posts int64 (k), all of which are here.

        Raises:
            LookupError: A post is not here.
        """
        rows = self.index.get(ids)
        return PostRecords(
            ids, self.author_ids[rows], self.created_at[rows], self.updated_at[rows], self.deleted[rows]
        ).distinct()

    def without_many_tombstones(self) -> "PostTable":
        """This table, or one of a new epoch with the posts alone once tombstones pass a quarter of the rows.

        Raises:
            OSError: The new embeddings cannot be written.
        """
        tombstones = len(self) - len(self.index)
        if tombstones <= max(MIN_TOMBSTONES, len(self) // 4):
            return self
        rows = np.sort(self.index.values)  # int64 (posts)
        post_ids = self.post_ids[rows]
        return PostTable(
            epoch=self.epoch + 1,
            post_ids=post_ids,
            author_ids=self.author_ids[rows],
            created_at=self.created_at[rows],
            updated_at=self.updated_at[rows],
            deleted=self.deleted[rows],
            fingerprints=self.fingerprints[rows],
            arrived_at=self.arrived_at[rows],
            no_image=self.no_image[rows],
            no_caption=self.no_caption[rows],
            index=IdMap.of(post_ids, np.arange(len(rows))),
            embeddings=self.embeddings.compacted(rows),
        )

    @property
    def nbytes(self) -> int:
        """Memory of the columns that a snapshot does not share."""
        return self.updated_at.nbytes + self.no_image.nbytes + self.no_caption.nbytes
