"""Reads the four views into a folder of arrays, in one database snapshot, by binary COPY.

Rows are written to disk as they arrive: memory holds the rows of one user and a few numbers for each user.
PostgreSQL sorts, on its own disk if `work_mem` is too small.
"""

import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import asyncpg
import numpy as np
import numpy.typing as npt

from animora_database import views
from animora_database.copy_format import Columns, EmbeddingRows, FixedRows, unix_seconds
from animora_database.copying import copy_rows
from animora_database.embeddings import UNUSABLE, Decoder, EmbeddingBatch, to_halves
from animora_database.errors import UnusableView
from animora_database.reading import (
    begin_reading,
    check_views,
    count_left_out,
    embedding_decoders,
    find_hiding_tables,
    hiding_warning,
)
from animora_database.views import ViewQuery
from animora_training.data.arrays import ArrayFile, map_array, prepare_folder, write_array
from animora_training.data.dataset import (
    ABSENT,
    Dataset,
    Embeddings,
    IntArray,
    Interactions,
    index_of,
    latest_of_each,
    offsets_of,
)
from animora_training.data.folder import FILES, finish
from animora_training.errors import DatabaseError

log = logging.getLogger(__name__)

MAX_POSTS = 2**31 - 1
REASONS = {
    "missing": "an id, an author or a time is null or infinite",
    "kind": "kind is neither 'like' nor 'comment'",
    "self": "nobody blocks themselves",
    "duplicate": "another row has the same id",
}

OnRead = Callable[[str, int], None]

# Of rows with the same id the first one counts: deleted ones come first, as in the server.
POSTS = views.POSTS.select(
    "id", "author_id", "created_at", "deleted_at", "image_embedding", "caption_embedding"
).order_by("1, 4 desc, created_at, 2")
INTERACTIONS = views.INTERACTIONS.select("user_id", "post_id", "created_at").order_by("1, 3, 2")
_BLOCKS, _REVERSED = (
    views.BLOCKS.select("blocker_id", "blocked_id"),
    views.BLOCKS.select("blocked_id", "blocker_id"),
)
BLOCKS = replace(_BLOCKS, sql=f"{_BLOCKS.sql} union {_REVERSED.sql}").order_by("1, 2")


async def read_dataset(connection: asyncpg.Connection, folder: Path, on_read: OnRead) -> Dataset:
    """Reads a data set, as of one moment, into a folder, and opens it.

    Interactions of unknown users or posts are left out. Invalid rows are left out, counted and logged.
    Embeddings are rounded to float16, as in the server.

    Args:
        connection: Connection of a role that may read the views.
        folder: Target folder, created if missing; a data set in it is replaced.
        on_read: Called with the name of a view and the number of rows read so far.

    Raises:
        DatabaseError: A view breaks the contract.
        CannotWrite: The disk is full, or the folder is not writable.
    """
    prepare_folder(folder, FILES)
    reader = _Reader(connection, folder, on_read)
    async with _one_moment(connection) as decoders:
        read_at = await connection.fetchval("select pg_catalog.now()")
        left_out = {
            f"{view}.{reason}": count for (view, reason), count in (await count_left_out(connection)).items()
        }
        await reader.read_users()
        left_out |= await reader.read_posts(decoders)
        await reader.read_events()
        await reader.read_blocks()
    _write_pairs(folder)
    for name, count in left_out.items():
        view, _, reason = name.partition(".")
        if count and reason in REASONS:
            log.warning("%d rows of animora.%s are left out: %s", count, view, REASONS[reason])
        elif count:
            log.warning(
                "%d embeddings of animora.%s count as absent: %s_embedding has another width, or "
                "numbers that are not finite",
                count,
                view,
                reason,
            )
    return finish(folder, read_at, left_out)


@asynccontextmanager
async def _one_moment(connection: asyncpg.Connection) -> AsyncIterator[tuple[Decoder, Decoder]]:
    """Context manager with a read-only snapshot transaction; checks the views first.

    Raises:
        DatabaseError: A view breaks the contract.
    """
    await begin_reading(connection)
    try:
        columns = await check_views(connection)
        for row in await find_hiding_tables(connection):
            log.warning("%s", hiding_warning(*row))
        yield embedding_decoders(columns)
    except UnusableView as error:
        raise DatabaseError(str(error)) from error
    finally:
        if not connection.is_closed():
            await connection.execute("rollback")


class _Reader:
    """Reads the views into the files of a folder."""

    def __init__(self, connection: asyncpg.Connection, folder: Path, on_read: OnRead) -> None:
        self._connection = connection
        self._folder = folder
        self._on_read = on_read

    async def read_users(self) -> None:
        with self._file("user_ids", np.int64) as file:
            await self._copy(views.USER_IDS, lambda columns: file.append(columns[0]))

    async def read_blocks(self) -> None:
        with self._file("blocks", np.int64, (2,)) as file:
            await self._copy(BLOCKS, lambda columns: file.append(np.stack(columns, axis=1)))

    async def read_posts(
        self, decoders: tuple[Decoder, Decoder], widths: tuple[int, int] = (0, 0)
    ) -> dict[str, int]:
        """Reads the posts; returns the numbers of rows and embeddings left out, by view and reason.

        The columns get the most frequent widths. If those of the first posts differ from these, all posts are
        read again.

        Args:
            decoders: Decoders of image and caption embeddings.
            widths: Widths of image and caption embeddings; 0 if unknown.
        """
        with ExitStack() as stack:
            kinds = {"ids": np.int64, "authors": np.int64, "created": np.float64, "deleted": np.bool_}
            files = [stack.enter_context(self._file(f"post_{name}", kind)) for name, kind in kinds.items()]
            image, caption = (
                _EmbeddingWriter(stack.enter_context(self._file(f"post_{name}", np.float16, (0,))), width)
                for name, width in zip(("image", "caption"), widths, strict=True)
            )
            last: int | None = None
            repeated = 0

            def take(columns: Columns, images: EmbeddingBatch, captions: EmbeddingBatch) -> None:
                nonlocal last, repeated
                ids, authors, created, deleted = columns
                new = np.append(True, ids[1:] != ids[:-1])[: len(ids)]
                if len(ids):
                    new[0], last = ids[0] != last, int(ids[-1])
                first = np.flatnonzero(new)
                repeated += len(ids) - len(first)
                for file, column in zip(files, (ids, authors, unix_seconds(created), deleted), strict=True):
                    file.append(column[first])
                image.append(images.take(first))
                caption.append(captions.take(first))
                self._on_read(POSTS.view, len(files[0]))

            await copy_rows(self._connection, EmbeddingRows(POSTS, decoders, take))
        most_frequent = (image.most_frequent_width, caption.most_frequent_width)
        if most_frequent != (image.width, caption.width):
            return await self.read_posts(decoders, most_frequent)
        if len(files[0]) > MAX_POSTS:
            raise DatabaseError(
                f"animora.posts shows more than {MAX_POSTS:,} posts, and no model takes as many"
            )
        return {
            "posts.duplicate": repeated,
            "posts.image": image.unusable,
            "posts.caption": caption.unusable,
        }

    async def read_events(self) -> None:
        user_ids, post_ids = (map_array(self._folder / f"{name}.npy") for name in ("user_ids", "post_ids"))
        counts = np.zeros(len(user_ids), np.int64)
        with self._file("event_posts", np.int32) as posts, self._file("event_times", np.float64) as times:

            def take(columns: Columns) -> None:
                users, liked, moments = columns
                user_index, post_index = index_of(users, user_ids), index_of(liked, post_ids)
                shown = (user_index != ABSENT) & (post_index != ABSENT)
                _count(user_index[shown], counts)
                posts.append(post_index[shown])
                times.append(unix_seconds(moments[shown]))

            await self._copy(INTERACTIONS, take)
        write_array(self._folder / "event_offsets.npy", offsets_of(counts))

    async def _copy(self, query: ViewQuery, take: Callable[[Columns], None]) -> None:
        """Streams fixed-width columns to `take`, some rows at a time."""
        read = 0

        def take_and_report(columns: Columns) -> None:
            nonlocal read
            take(columns)
            read += len(columns[0])
            self._on_read(query.view, read)

        await copy_rows(self._connection, FixedRows(query, take_and_report))

    def _file(self, name: str, dtype: npt.DTypeLike, width: tuple[int, ...] = ()) -> ArrayFile:
        return ArrayFile(self._folder / f"{name}.npy", dtype, width)


def _count(users: IntArray, counts: IntArray) -> None:
    """Adds the numbers of occurrences of ascending indices int64 (n) to counts int64 (u), in place."""
    if len(users):
        first, last = users[0], users[-1]
        counts[first : last + 1] += np.bincount(users - first)


def _write_pairs(folder: Path) -> None:
    """Computes the pairs from the events in the folder, and writes them."""
    offsets, posts, times = (
        map_array(folder / f"event_{name}.npy") for name in ("offsets", "posts", "times")
    )
    events = Interactions(offsets, posts, times)
    counts = np.zeros(len(offsets) - 1, np.int64)
    number = len(map_array(folder / "post_ids.npy"))
    with (
        ArrayFile(folder / "pair_posts.npy", np.int32) as pair_posts,
        ArrayFile(folder / "pair_times.npy", np.float64) as pair_times,
    ):
        for chunk in events.chunks():
            rows = latest_of_each(chunk, number)
            _count(rows.users, counts)
            pair_posts.append(rows.posts)
            pair_times.append(rows.times)
    write_array(folder / "pair_offsets.npy", offsets_of(counts))


class _EmbeddingWriter:
    """Writes the embeddings of one column of animora.posts; absent ones as zeros.

    A null or empty embedding is absent. An unusable one counts as absent: with several dimensions, with a
    null, with a value beyond float16, or of another width than the column.

    Args:
        file: An open file of width 0.
        width: Width of the column. 0 takes the most frequent width of the first `append` with usable
            embeddings, which may not be the most frequent one of all.

    Attributes:
        width: Width of the column; 0 until a usable embedding was seen.
        unusable: Number of unusable embeddings.
    """

    def __init__(self, file: ArrayFile, width: int = 0) -> None:
        self.width = width
        self.unusable = 0
        self._file = file
        self._widths: Counter[int] = Counter()
        if width:
            file.widen(width)

    @property
    def most_frequent_width(self) -> int:
        """The most frequent usable width, the smallest of equally frequent ones; 0 without any."""
        return max(self._widths, key=lambda width: (self._widths[width], -width), default=0)

    def append(self, batch: EmbeddingBatch) -> None:
        """Writes the embeddings of some posts.

        Raises:
            CannotWrite: The disk is full, or failed.
        """
        by_width = self._usable(batch)
        self._widths.update({width: len(at) for width, (at, _) in by_width.items()})
        if by_width and not self.width:
            self.width = self.most_frequent_width
            self._file.widen(self.width)
        matrix = np.zeros((len(batch.widths), self.width), np.float16)
        for width, (at, embeddings) in by_width.items():
            if width == self.width:
                matrix[at] = embeddings
            else:
                self.unusable += len(at)
        self._file.append(matrix)

    def _usable(self, batch: EmbeddingBatch) -> dict[int, tuple[IntArray, Embeddings]]:
        """Positions int64 (k) and embeddings float16 (k, width) of the usable embeddings, by width."""
        self.unusable += int(np.count_nonzero(batch.widths == UNUSABLE))
        by_width = {}
        for width, block in batch.blocks.items():
            halves, finite = to_halves(block)
            self.unusable += int(np.count_nonzero(~finite))
            if finite.any():
                by_width[width] = np.flatnonzero(batch.widths == width)[finite], halves[finite]
        return by_width
