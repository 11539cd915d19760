"""Builds the next table of posts from the previous one and from the rows that the database has now."""

from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt

from animora_database.embeddings import UNUSABLE, EmbeddingBatch, to_halves
from animora_server.catalog.embeddings import fingerprints
from animora_server.catalog.index import ABSENT, IdMap
from animora_server.catalog.records import EmbeddingRecords, PostRecords
from animora_server.catalog.table import CatalogPosts
from animora_server.catalog.widths import NO_PREFERENCE, FoundWidths, WidthPreference, Widths
from animora_server.types import BoolArray, HalfArray, IntArray

Column = TypeVar("Column", bound=np.generic)


@dataclass(frozen=True, slots=True)
class _ArrivedRows:
    """Posts whose embeddings arrived: `at` int64 (k) are their positions among the posts found."""

    at: IntArray
    moved: BoolArray  # to a new row
    fingerprints: IntArray
    image_widths: FoundWidths
    caption_widths: FoundWidths

    @classmethod
    def empty(cls) -> Self:
        ids, widths = np.empty(0, np.int64), np.empty(0, np.int32)
        return cls(ids, np.empty(0, np.bool_), ids, widths, widths)


class PostTableBuilder:
    """Collects the embeddings of the posts found, then builds the next table. The previous one is unchanged.

    Embeddings arrive in parts, so that a load of any size takes little memory. A post that is new or
    restored, or whose author, time of creation or embeddings changed, gets a new row at the end; any other
    post keeps its row.

    Args:
        table: The previous table.
        found: The posts that the database has.
        pending: bool (found): which posts' embeddings will be added.
        preference: The models' widths, for columns whose width the table has not chosen yet.

    Attributes:
        pending: bool (found): which posts' embeddings have not been added yet.
    """

    def __init__(
        self,
        table: CatalogPosts,
        found: PostRecords,
        pending: BoolArray,
        preference: WidthPreference = NO_PREFERENCE,
    ) -> None:
        self.pending = pending.copy()
        self._preference = preference
        self._table = table
        self._found = found
        self._positions = IdMap(found.ids, np.arange(len(found)))
        self._file = table.embeddings
        self._rows = len(table)
        self._arrived: list[_ArrivedRows] = []

    def add(self, batch: EmbeddingRecords) -> None:
        """Adds embeddings; those of posts that are not pending are ignored.

        Raises:
            OSError: The embeddings cannot be written.
        """
        ids, first = np.unique(batch.ids, return_index=True)
        at = self._positions.find(ids)
        found = np.flatnonzero(at != ABSENT)
        pending = found[self.pending[at[found]]]
        at, first = at[pending], first[pending]
        if not len(at):
            return
        self.pending[at] = False
        images, captions = batch.images.take(first), batch.captions.take(first)
        self._choose_missing_widths(images, captions)
        image, image_widths = _matrix(images, self._file.image_width)
        caption, caption_widths = _matrix(captions, self._file.caption_width)
        digests = fingerprints(image, caption)
        moved = ~self._unchanged(at, digests)
        self._file.write(self._rows, image[moved], caption[moved])
        self._rows += int(np.count_nonzero(moved))
        self._arrived.append(_ArrivedRows(at, moved, digests, image_widths, caption_widths))

    def finish(self, removed: IntArray, read_at: float) -> CatalogPosts:
        """Returns the next table, or the previous one if nothing changed.

        Args:
            removed: int64 (k), posts that the database no longer has. Posts found are not removed.
            read_at: The database's time of the reading, in unix seconds.

        Raises:
            OSError: The embeddings cannot be written.
        """
        table, found, arrived = self._table, self._found, self._concatenate_arrived()
        removed = np.setdiff1d(removed, found.ids)
        # A post whose embeddings did not arrive stays as it was; the next refresh reads it again.
        current = found.take(np.flatnonzero(~self.pending))
        if not len(removed) and not len(arrived.at) and self._is_unchanged(current):
            return table
        new = found.take(arrived.at[arrived.moved])
        new_rows = np.arange(len(table), self._rows)
        left = table.index.find(np.concatenate((new.ids, removed)))
        left = left[left != ABSENT]
        index = table.index.without(table.post_ids[left]).with_added(new.ids, new_rows)

        post_ids = _extended(table.post_ids, self._rows)
        author_ids = _extended(table.author_ids, self._rows)
        digests = _extended(table.fingerprints, self._rows)
        post_ids[new_rows], author_ids[new_rows] = new.ids, new.author_ids
        digests[new_rows] = arrived.fingerprints[arrived.moved]
        arrived_at = _extended(table.arrived_at, self._rows)
        # Never descending, even if the database's clock stepped back, as after a failover.
        arrived_at[new_rows] = table.arrived_at[-1:].max(initial=read_at)
        image_widths = _extended(table.image_widths, self._rows)
        caption_widths = _extended(table.caption_widths, self._rows)
        rows = index.get(found.ids[arrived.at])
        image_widths[rows], caption_widths[rows] = arrived.image_widths, arrived.caption_widths
        created_at, updated_at = (
            _extended(table.created_at, self._rows),
            _extended(table.updated_at, self._rows),
        )
        deleted = _extended(table.deleted, self._rows)
        rows = index.get(current.ids)
        created_at[rows], updated_at[rows], deleted[rows] = (
            current.created_at, current.updated_at, current.deleted,
        )  # fmt: skip
        deleted[left] = True
        return CatalogPosts(
            epoch=self._epoch(),
            post_ids=post_ids,
            author_ids=author_ids,
            created_at=created_at,
            updated_at=updated_at,
            deleted=deleted,
            fingerprints=digests,
            arrived_at=arrived_at,
            image_widths=image_widths,
            caption_widths=caption_widths,
            index=index,
            embeddings=self._file,
        ).compacted()

    def _epoch(self) -> int:
        """A new epoch for the first load and for a file of other widths, because every row changes."""
        fresh = self._table.epoch == 0 or self._file is not self._table.embeddings
        return self._table.epoch + fresh

    def _concatenate_arrived(self) -> _ArrivedRows:
        parts = [_ArrivedRows.empty(), *self._arrived]
        return _ArrivedRows(
            np.concatenate([part.at for part in parts]),
            np.concatenate([part.moved for part in parts]),
            np.concatenate([part.fingerprints for part in parts]),
            np.concatenate([part.image_widths for part in parts]),
            np.concatenate([part.caption_widths for part in parts]),
        )

    def _is_unchanged(self, records: PostRecords) -> bool:
        """Whether the table has the same records of known posts."""
        known = self._table.records(records.ids)
        return (
            self._table.epoch > 0
            and np.array_equal(known.created_at, records.created_at)
            and np.array_equal(known.updated_at, records.updated_at)
            and np.array_equal(known.deleted, records.deleted)
        )

    def _unchanged(self, at: IntArray, digests: IntArray) -> BoolArray:
        """Which posts, at positions int64 (k) among those found, keep their row: bool (k)."""
        rows = self._table.index.find(self._found.ids[at])
        unchanged = np.not_equal(rows, ABSENT)
        known, found = rows[unchanged], self._found.take(at[unchanged])
        same_embeddings = self._table.fingerprints[known] == digests[unchanged]
        unchanged[unchanged] = same_embeddings & ~self._table.replaced(known, found)
        return unchanged

    def _choose_missing_widths(self, images: EmbeddingBatch, captions: EmbeddingBatch) -> None:
        """Chooses the width of a column that has none yet; rows written so far get zeros.

        The choice is by the first part of the posts, so a reconcile chooses again.
        """
        kept = self._file.widths
        chosen = self._preference.choose(
            images.widths.astype(np.int32), captions.widths.astype(np.int32), kept
        )
        widths = Widths(kept.image or chosen.image, kept.caption or chosen.caption)
        if widths != kept:
            self._file = self._file.resized(widths.image, widths.caption, self._rows)


def _matrix(column: EmbeddingBatch, width: int) -> tuple[HalfArray, FoundWidths]:
    """Embeddings as float16 (k, width), zeros for absent and unusable ones, and their widths int32 (k).

    The width of an embedding with a number beyond float16 becomes 0: unusable.
    """
    widths = np.where(column.widths == UNUSABLE, 0, column.widths).astype(np.int32)
    matrix = np.zeros((len(widths), width), np.float16)
    for found_width, block in column.blocks.items():
        fits = np.flatnonzero(widths == found_width)
        halves, finite = to_halves(block)
        if found_width == width:
            halves[~finite] = 0
            matrix[fits] = halves
        widths[fits[~finite]] = 0
    return matrix, widths


def _extended(column: npt.NDArray[Column], rows: int) -> npt.NDArray[Column]:
    """A copy of a column (n), extended with zeros to (rows)."""
    extended = np.zeros(rows, column.dtype)
    extended[: len(column)] = column
    return extended
