"""Writes a feed into Animora's own tables by COPY, in one transaction."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass

import asyncpg
import numpy as np

from animora_database import copy_format
from animora_training.data.dataset import BoolArray, FloatArray, IntArray
from animora_training.errors import DatabaseError
from animora_training.importers.feed import Comments, FeedPosts, ImportFeed

SCHEMA = "animora_app"
TABLES = ("users", "posts", "likes", "comments", "block_relations")
POST_COLUMNS = (
    "id", "author_id", "caption", "created_at", "deleted_at", "image_embedding", "caption_embedding",
)  # fmt: skip
WITH_IDENTITY = ("users", "posts", "comments")
ROWS_AT_ONCE = 50_000
POSTS_AT_ONCE = 500

OnWritten = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class ImportTable:
    """Rows for a table: its columns, the number of rows, and the encoded rows in chunks."""

    name: str
    columns: tuple[str, ...]
    count: int
    pieces: Iterator[tuple[int, bytes]]


async def check_empty(connection: asyncpg.Connection) -> None:
    """Checks that the tables are empty.

    Raises:
        DatabaseError: Animora's own tables have users.
    """
    if await connection.fetchval(f"select exists (select from {SCHEMA}.users)"):
        raise DatabaseError(
            "the database has users already: name an empty one with --database-url, or delete all that it "
            "holds with --replace"
        )


async def import_feed(connection: asyncpg.Connection, feed: ImportFeed, on_written: OnWritten) -> None:
    """Writes a feed into empty tables.

    Args:
        connection: Connection of a role that may write Animora's own tables.
        feed: What to write.
        on_written: Called with a table's name, the number of rows written, and the number of rows in all.

    Raises:
        DatabaseError: The tables are not empty; nothing was changed.
    """
    async with connection.transaction():
        await _lock(connection)
        await check_empty(connection)
        await _write(connection, feed, on_written)
    await _analyze(connection)


async def replace_feed(connection: asyncpg.Connection, feed: ImportFeed, on_written: OnWritten) -> None:
    """Empties Animora's own tables and writes a feed. Arguments as in `import_feed`."""
    async with connection.transaction():
        await _lock(connection)
        tables = ", ".join(f"{SCHEMA}.{table}" for table in TABLES)
        await connection.execute(f"truncate {tables} restart identity")
        await _write(connection, feed, on_written)
    await _analyze(connection)


async def _lock(connection: asyncpg.Connection) -> None:
    """Locks the tables against writes until the commit."""
    tables = ", ".join(f"{SCHEMA}.{table}" for table in TABLES)
    await connection.execute(f"lock table {tables} in exclusive mode")


async def _write(connection: asyncpg.Connection, feed: ImportFeed, on_written: OnWritten) -> None:
    for table in _tables(feed):
        await connection.copy_to_table(
            table.name,
            schema_name=SCHEMA,
            columns=table.columns,
            format="binary",
            source=_stream(table, on_written),
        )
    for name in WITH_IDENTITY:
        # The rows have explicit ids, so the sequences must be advanced past them.
        await connection.execute(
            f"select setval(pg_get_serial_sequence('{SCHEMA}.{name}', 'id'), "
            f"greatest(max(id), 0) + 1, false) from {SCHEMA}.{name}"
        )


async def _analyze(connection: asyncpg.Connection) -> None:
    """Updates the planner's statistics."""
    for table in TABLES:
        await connection.execute(f"analyze {SCHEMA}.{table}")


async def _stream(table: ImportTable, on_written: OnWritten) -> AsyncIterator[bytes]:
    yield copy_format.SIGNATURE
    written = 0
    for rows, piece in table.pieces:
        yield piece
        written += rows
        on_written(table.name, written, table.count)
    yield copy_format.TRAILER


def _tables(feed: ImportFeed) -> list[ImportTable]:
    """The tables in the order of their foreign keys."""
    likes, comments, blocks = feed.likes, feed.comments, feed.blocks
    like_columns = (likes.users, likes.posts, copy_format.timestamps(likes.times))
    block_columns = (blocks.blockers, blocks.blocked, copy_format.timestamps(blocks.times))
    return [
        ImportTable("users", ("id",), len(feed.user_ids), _fixed((feed.user_ids,))),
        ImportTable(
            "posts",
            POST_COLUMNS,
            len(feed.posts.ids),
            _posts(feed.posts),
        ),
        ImportTable("likes", ("user_id", "post_id", "created_at"), len(likes.users), _fixed(like_columns)),
        ImportTable(
            "comments",
            ("user_id", "post_id", "created_at", "body"),
            len(comments.users),
            _comments(comments),
        ),
        ImportTable(
            "block_relations",
            ("blocker_id", "blocked_id", "created_at"),
            len(blocks.blockers),
            _fixed(block_columns),
        ),
    ]


def _fixed(columns: Sequence[IntArray]) -> Iterator[tuple[int, bytes]]:
    for start in range(0, len(columns[0]), ROWS_AT_ONCE):
        some = [column[start : start + ROWS_AT_ONCE] for column in columns]
        yield len(some[0]), copy_format.encode_fixed(some)


def _posts(posts: FeedPosts) -> Iterator[tuple[int, bytes]]:
    created, live = copy_format.timestamps(posts.created), np.isnan(posts.deleted)
    deleted = copy_format.timestamps(np.where(live, 0.0, posts.deleted))
    for start in range(0, len(posts.ids), POSTS_AT_ONCE):
        some = range(start, min(start + POSTS_AT_ONCE, len(posts.ids)))
        image = _embeddings(posts.image[some.start : some.stop])
        caption = _embeddings(posts.caption[some.start : some.stop])
        rows = [
            copy_format.encode_row(
                (
                    _int8(posts.ids[index]),
                    _int8(posts.authors[index]),
                    posts.captions[index].encode(),
                    _int8(created[index]),
                    None if live[index] else _int8(deleted[index]),
                    image[index - start],
                    caption[index - start],
                )
            )
            for index in some
        ]
        yield len(rows), b"".join(rows)


def _comments(comments: Comments) -> Iterator[tuple[int, bytes]]:
    times = copy_format.timestamps(comments.times)
    for start in range(0, len(times), ROWS_AT_ONCE):
        some = slice(start, start + ROWS_AT_ONCE)
        columns = zip(
            comments.users[some], comments.posts[some], times[some], comments.bodies[some], strict=True
        )
        rows = [
            copy_format.encode_row((_int8(user), _int8(post), _int8(time), body.encode()))
            for user, post, time, body in columns
        ]
        yield len(rows), b"".join(rows)


def _embeddings(vectors: FloatArray) -> list[bytes | None]:
    """Encodes fields of type real[]; null for a row of zeros or of width 0."""
    present: BoolArray = np.any(vectors != 0, axis=1)
    fields = copy_format.encode_real_arrays(vectors)
    return [field if there else None for field, there in zip(fields, present, strict=True)]


def _int8(value: int) -> bytes:
    return int(value).to_bytes(8, "big", signed=True)
