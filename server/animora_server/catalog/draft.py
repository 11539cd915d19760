"""The next table of posts: what the database says now, applied to the table before it."""

from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt

from animora_server.catalog.embeddings import INFINITE, fingerprints, magnitudes
from animora_server.catalog.lookup import ABSENT, IdMap
from animora_server.catalog.records import NO_EMBEDDING, EmbeddingColumn, EmbeddingRecords, PostRecords
from animora_server.catalog.table import PostTable
from animora_server.types import BoolArray, HalfArray, IntArray

Column = TypeVar("Column", bound=np.generic)


@dataclass(frozen=True, slots=True)
class _Arrived:
    """Posts whose embeddings arrived: positions int64 (k) among those found, and what is new about them."""

    at: IntArray
    moved: BoolArray  # to a new row
    fingerprints: IntArray
    no_image: BoolArray
    no_caption: BoolArray

    @classmethod
    def nothing(cls) -> Self:
        ids, flags = np.empty(0, np.int64), np.empty(0, np.bool_)
        return cls(ids, flags, ids, flags, flags)


class PostDraft:
    """Collects embeddings of posts found, then makes the next table; if it is dropped, nothing has changed.

    Embeddings arrive in parts, so that a load of any size takes little memory. A post that is new, or whose
    author or embeddings changed, gets a row at the end; any other keeps its row.

    Attributes:
        pending: Whose embeddings `add` waits for: bool, by position among the posts found.
        misfits: How many embeddings counted as none, being of another width or not finite.
    """

    def __init__(self, table: PostTable, found: PostRecords, pending: BoolArray) -> None:
        self.pending = pending.copy()
        self.misfits = 0
        self._table = table
        self._found = found
        self._positions = IdMap(found.ids, np.arange(len(found)))
        self._file = table.embeddings
        self._rows = len(table)
        self._arrived: list[_Arrived] = []

    def add(self, batch: EmbeddingRecords) -> None:
        """Adds the embeddings of some posts; those of posts not waited for are passed over.

        Raises:
            OSError: They cannot be written.
        """
        ids, first = np.unique(batch.ids, return_index=True)
        at = self._positions.find(ids)
        found = np.flatnonzero(at != ABSENT)
        awaited = found[self.pending[at[found]]]
        at, first = at[awaited], first[awaited]
        if not len(at):
            return
        self.pending[at] = False
        images, captions = batch.images.take(first), batch.captions.take(first)
        self._learn_widths(images, captions)
        image = self._matrix(images, self._file.image_width)
        caption = self._matrix(captions, self._file.caption_width)
        digests = fingerprints(image, caption)
        moved = ~self._unchanged(at, digests)
        self._file.write(self._rows, image[moved], caption[moved])
        self._rows += int(np.count_nonzero(moved))
        no_image, no_caption = (np.equal(column.widths, NO_EMBEDDING) for column in (images, captions))
        self._arrived.append(_Arrived(at, moved, digests, no_image, no_caption))

    def finish(self, removed: IntArray, read_at: float) -> PostTable:
        """The next table, or the same one if nothing changed.

        Args:
            removed: int64 (k), posts that are no longer there; one that was found is there all the same.
            read_at: The database's time of the reading that found them, in unix seconds.

        Raises:
            OSError: The embeddings cannot be written.
        """
        table, found, arrived = self._table, self._found, self._joined()
        removed = np.setdiff1d(removed, found.ids)
        # What was edited but did not arrive stays as it was, to be asked for again.
        current = found.take(np.flatnonzero(~self.pending))
        if not len(removed) and not len(arrived.at) and self._same(current):
            return table
        new = found.take(arrived.at[arrived.moved])
        new_rows = np.arange(len(table), self._rows)
        left = table.index.find(np.concatenate((new.ids, removed)))
        left = left[left != ABSENT]
        index = table.index.without(table.post_ids[left]).with_added(new.ids, new_rows)

        post_ids = _grown(table.post_ids, self._rows)
        author_ids = _grown(table.author_ids, self._rows)
        digests = _grown(table.fingerprints, self._rows)
        post_ids[new_rows], author_ids[new_rows] = new.ids, new.author_ids
        digests[new_rows] = arrived.fingerprints[arrived.moved]
        arrived_at = _grown(table.arrived_at, self._rows)
        # The database's clock may have stepped back, as after a failover.
        arrived_at[new_rows] = table.arrived_at[-1:].max(initial=read_at)
        no_image, no_caption = _grown(table.no_image, self._rows), _grown(table.no_caption, self._rows)
        rows = index.get(found.ids[arrived.at])
        no_image[rows], no_caption[rows] = arrived.no_image, arrived.no_caption
        created_at, updated_at = _grown(table.created_at, self._rows), _grown(table.updated_at, self._rows)
        deleted = _grown(table.deleted, self._rows)
        rows = index.get(current.ids)
        created_at[rows], updated_at[rows], deleted[rows] = (
            current.created_at, current.updated_at, current.deleted,
        )  # fmt: skip
        deleted[left] = True
        return PostTable(
            epoch=self._epoch(),
            post_ids=post_ids,
            author_ids=author_ids,
            created_at=created_at,
            updated_at=updated_at,
            deleted=deleted,
            fingerprints=digests,
            arrived_at=arrived_at,
            no_image=no_image,
            no_caption=no_caption,
            index=index,
            embeddings=self._file,
        ).without_many_tombstones()

    def _epoch(self) -> int:
        """A new one for the first load and for a file of other widths, in which every row changes."""
        fresh = self._table.epoch == 0 or self._file is not self._table.embeddings
        return self._table.epoch + fresh

    def _joined(self) -> _Arrived:
        parts = [_Arrived.nothing(), *self._arrived]
        return _Arrived(
            np.concatenate([part.at for part in parts]),
            np.concatenate([part.moved for part in parts]),
            np.concatenate([part.fingerprints for part in parts]),
            np.concatenate([part.no_image for part in parts]),
            np.concatenate([part.no_caption for part in parts]),
        )

    def _same(self, records: PostRecords) -> bool:
        """Whether the table says the same of posts that it has."""
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
        known = rows[unchanged]
        unchanged[unchanged] = (self._table.fingerprints[known] == digests[unchanged]) & (
            self._table.author_ids[known] == self._found.author_ids[at[unchanged]]
        )
        return unchanged

    def _learn_widths(self, images: EmbeddingColumn, captions: EmbeddingColumn) -> None:
        """Takes the widths from the first embeddings seen; the rows so far get zeros of that width."""
        image_width = self._file.image_width or images.first_width()
        caption_width = self._file.caption_width or captions.first_width()
        if (image_width, caption_width) != (self._file.image_width, self._file.caption_width):
            self._file = self._file.resized(image_width, caption_width, self._rows)

    def _matrix(self, column: EmbeddingColumn, width: int) -> HalfArray:
        """Embeddings as float16 (k, width), zeros where there is none or it cannot be used."""
        fits = np.equal(column.widths, width)
        self.misfits += int(np.count_nonzero((column.widths != NO_EMBEDDING) & ~fits))
        matrix = np.zeros((len(fits), width), np.float16)
        block = column.blocks.get(width)
        if block is not None:
            # What float16 cannot hold becomes infinite, and is dropped below.
            with np.errstate(over="ignore"):
                matrix[slice(None) if fits.all() else fits] = block
        bad = magnitudes(matrix) >= INFINITE
        matrix[bad] = 0
        self.misfits += int(np.count_nonzero(bad))
        return matrix


def _grown(column: npt.NDArray[Column], rows: int) -> npt.NDArray[Column]:
    """A copy of a column (n) with zeros up to (rows)."""
    grown = np.zeros(rows, column.dtype)
    grown[: len(column)] = column
    return grown
