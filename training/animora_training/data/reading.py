"""Reading the four views into a folder of arrays, in one snapshot, through binary COPY.

What is read goes to the disk as it comes, so that memory bounds only the most active user and a few numbers
for each user. PostgreSQL does the sorting, on its own disk where `work_mem` is too small for it.
"""

from contextlib import ExitStack
from pathlib import Path

import asyncpg
import numpy as np
import numpy.typing as npt

from animora_training.data.arrays import ArrayFile, begin, map_array, write_array
from animora_training.data.copying import Columns, OnRead, View, copy, copy_fixed
from animora_training.data.dataset import (
    ABSENT,
    Dataset,
    IntArray,
    Interactions,
    index_of,
    latest_of_each,
    offsets_of,
)
from animora_training.data.embeddings import EmbeddingColumn
from animora_training.data.folder import FILES, finish
from animora_training.data.pgcopy import RaggedRows
from animora_training.errors import DatabaseError

MAX_POSTS = 2**31 - 1


USERS = View("users", "select distinct id::int8 from animora.users order by 1", {"id": ">i8"})
POSTS = View(
    "posts",
    "select id::int8, author_id::int8, extract(epoch from created_at)::float8, deleted_at is not null, "
    "image_embedding::real[], caption_embedding::real[] from animora.posts order by 1",
    {"id": ">i8", "author_id": ">i8", "created_at": ">f8", "deleted_at": "?"},
)
INTERACTIONS = View(
    "interactions",
    "select user_id::int8, post_id::int8, extract(epoch from created_at)::float8 "
    "from animora.interactions order by 1, created_at, 2",
    {"user_id": ">i8", "post_id": ">i8", "created_at": ">f8"},
)
BLOCKS = View(
    "blocks",
    "select blocker_id::int8, blocked_id::int8 from animora.blocks "
    "union select blocked_id::int8, blocker_id::int8 from animora.blocks order by 1, 2",
    {"blocker_id": ">i8", "blocked_id": ">i8"},
)


async def read_dataset(connection: asyncpg.Connection, folder: Path, on_read: OnRead) -> Dataset:
    """Reads everything that a fit needs, as of one moment, into a folder, and opens it.

    Interactions with users or posts that the views do not show are left out. Embeddings are rounded to
    float16, in which the server keeps them.

    Args:
        connection: With the right to read the views.
        folder: Made where there is none; a data set that it holds is replaced.
        on_read: Told a view's name and how many of its rows have been read so far.

    Raises:
        DatabaseError: A view holds what it must not hold.
        CannotWrite: The disk is full, or the folder may not be written.
    """
    begin(folder, FILES)
    reader = _Reader(connection, folder, on_read)
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        read_at = await connection.fetchval("select now()")
        await reader.read_users()
        await reader.read_posts()
        await reader.read_events()
        await reader.read_blocks()
    _write_pairs(folder)
    return finish(folder, read_at)


class _Reader:
    """Reads one view after the other into the files of a folder."""

    def __init__(self, connection: asyncpg.Connection, folder: Path, on_read: OnRead) -> None:
        self._connection = connection
        self._folder = folder
        self._on_read = on_read

    async def read_users(self) -> None:
        with self._file("user_ids", np.int64) as file:
            await copy_fixed(self._connection, USERS, self._on_read, lambda columns: file.append(columns[0]))

    async def read_blocks(self) -> None:
        with self._file("blocks", np.int64, (2,)) as file:
            await copy_fixed(
                self._connection,
                BLOCKS,
                self._on_read,
                lambda columns: file.append(np.stack(columns, axis=1)),
            )

    async def read_posts(self) -> None:
        with ExitStack() as stack:
            kinds = {"ids": np.int64, "authors": np.int64, "created": np.float64, "deleted": np.bool_}
            files = [stack.enter_context(self._file(f"post_{name}", kind)) for name, kind in kinds.items()]
            embeddings = [
                EmbeddingColumn(
                    f"{name}_embedding",
                    stack.enter_context(self._file(f"post_{name}", np.float16, (0,))),
                )
                for name in ("image", "caption")
            ]
            rows = RaggedRows(POSTS.fields, ragged=len(embeddings))
            last: list[int] = []

            def take(data: bytes) -> None:
                columns, ragged = rows.feed(data)
                ids = columns[0].tolist()
                _check_posts(last + ids, columns[2])
                last[:] = ids[-1:] or last
                for file, column in zip(files, columns, strict=True):
                    file.append(column)
                for embedding, fields in zip(embeddings, ragged, strict=True):
                    embedding.append(ids, fields)
                self._on_read(POSTS.name, len(files[0]))

            await copy(self._connection, POSTS, take, rows.finish)
        if len(files[0]) > MAX_POSTS:
            raise DatabaseError(
                f"animora.posts shows more than {MAX_POSTS:,} posts, and no model takes as many"
            )

    async def read_events(self) -> None:
        user_ids, post_ids = (map_array(self._folder / f"{name}.npy") for name in ("user_ids", "post_ids"))
        counts = np.zeros(len(user_ids), np.int64)
        with self._file("event_posts", np.int32) as posts, self._file("event_times", np.float64) as times:

            def take(columns: Columns) -> None:
                users, liked, moments = columns
                _check_times(columns)
                user_index, post_index = index_of(users, user_ids), index_of(liked, post_ids)
                shown = (user_index != ABSENT) & (post_index != ABSENT)
                _count(user_index[shown], counts)
                posts.append(post_index[shown])
                times.append(moments[shown])

            await copy_fixed(self._connection, INTERACTIONS, self._on_read, take)
        write_array(self._folder / "event_offsets.npy", offsets_of(counts))

    def _file(self, name: str, dtype: npt.DTypeLike, width: tuple[int, ...] = ()) -> ArrayFile:
        return ArrayFile(self._folder / f"{name}.npy", dtype, width)


def _check_posts(ids: list[int], created: npt.NDArray[np.float64]) -> None:
    ordered = np.array(ids, np.int64)
    repeated = ordered[1:] == ordered[:-1]
    if repeated.any():
        raise DatabaseError(f"animora.posts shows an id twice: {ordered[int(np.argmax(repeated))]}")
    if not np.isfinite(created).all():
        post = ids[len(ids) - len(created) + int(np.argmin(np.isfinite(created)))]
        raise DatabaseError(f"animora.posts: created_at of post {post} is infinite")


def _check_times(columns: Columns) -> None:
    users, posts, times = columns
    finite = np.isfinite(times)
    if not finite.all():
        at = int(np.argmin(finite))
        raise DatabaseError(
            f"animora.interactions: created_at of user {users[at]} and post {posts[at]} is infinite"
        )


def _count(users: IntArray, counts: IntArray) -> None:
    """Adds how often each of ascending indices int64 (n) occurs to counts int64 (u)."""
    if len(users):
        first, last = users[0], users[-1]
        counts[first : last + 1] += np.bincount(users - first)


def _write_pairs(folder: Path) -> None:
    """Writes the pairs from the events that have been written."""
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
