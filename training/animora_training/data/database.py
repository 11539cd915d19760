"""Reading the four views into arrays, in one snapshot, through binary COPY."""

import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
import numpy as np
import numpy.typing as npt

from animora_training.data.dataset import (
    ABSENT,
    Dataset,
    FloatArray,
    Posts,
    chronological,
    index_of,
)
from animora_training.data.pgcopy import FixedRows, RowDecoder, decode_real_array
from animora_training.errors import DatabaseError

CONNECT_TIMEOUT = 10.0
FLOAT16_MAX = float(np.finfo(np.float16).max)

OnRead = Callable[[str, int], None]


@dataclass(frozen=True, slots=True)
class View:
    """A view and what is read of it: all fields int8 (">i8") or float8 (">f8")."""

    name: str
    columns: str
    types: tuple[str, ...]


USERS = View("users", "id::int8", (">i8",))
INTERACTIONS = View(
    "interactions",
    "user_id::int8, post_id::int8, extract(epoch from created_at)::float8",
    (">i8", ">i8", ">f8"),
)
BLOCKS = View("blocks", "blocker_id::int8, blocked_id::int8", (">i8", ">i8"))
POSTS = """
select id::int8, author_id::int8, extract(epoch from created_at)::float8, deleted_at is not null,
       image_embedding::real[], caption_embedding::real[]
from animora.posts
order by id
"""
POST_FIELDS = struct.Struct(">qqd?")


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to PostgreSQL for as long as the context lasts.

    Raises:
        DatabaseError: It cannot be reached; or, from within, it failed or lacks a view or table.
    """
    try:
        connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT)
    except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise DatabaseError(f"--database-url: cannot connect to PostgreSQL: {error}") from error
    try:
        yield connection
    except (
        asyncpg.UndefinedTableError,
        asyncpg.UndefinedColumnError,
        asyncpg.InvalidSchemaNameError,
    ) as error:
        raise DatabaseError(
            f"{error}: apply deploy/sql/010_tables.sql and deploy/sql/020_views.sql, or write the four "
            "views of the latter over your own tables"
        ) from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise DatabaseError(
            f"{error}: reading takes the rights that deploy/sql/030_reader.sql grants, importing those of "
            "the owner of the schema animora_app"
        ) from error
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise DatabaseError(f"PostgreSQL failed: {error}") from error
    finally:
        # close() can hang on a frozen server.
        connection.terminate()


async def read_dataset(connection: asyncpg.Connection, on_read: OnRead) -> Dataset:
    """Reads everything that a fit needs, as of one moment.

    Interactions with users or posts that the views do not show are left out. Embeddings are rounded to
    float16, in which the server keeps them.

    Args:
        connection: With the right to read the views.
        on_read: Told a view's name and how many of its rows have been read so far.

    Raises:
        DatabaseError: A view holds what it must not hold.
    """
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        (user_ids,) = await _read_fixed(connection, USERS, on_read)
        posts = await _read_posts(connection, on_read)
        users, liked, times = await _read_fixed(connection, INTERACTIONS, on_read)
        blocks = np.stack(await _read_fixed(connection, BLOCKS, on_read), axis=1)
    user_ids = np.unique(user_ids)
    user_index, post_index = index_of(users, user_ids), index_of(liked, posts.ids)
    shown = (user_index != ABSENT) & (post_index != ABSENT)
    return Dataset(
        user_ids=user_ids,
        posts=posts,
        events=chronological(user_index[shown], post_index[shown], times[shown]),
        blocks=np.unique(np.concatenate((blocks, blocks[:, ::-1])), axis=0),
    )


async def _copy(connection: asyncpg.Connection, query: str, take: Callable[[bytes], None]) -> None:
    """Feeds the result of a query to a function, and raises its ValueError or DatabaseError afterwards.

    Raised in the midst of a COPY it would leave the connection waiting for ever.
    """
    errors: list[ValueError | DatabaseError] = []

    async def guarded(chunk: bytes) -> None:
        if errors:
            return
        try:
            take(chunk)
        except (ValueError, DatabaseError) as error:
            errors.append(error)

    await connection.copy_from_query(query, output=guarded, format="binary")
    if errors:
        raise errors[0]


async def _read_fixed(connection: asyncpg.Connection, view: View, on_read: OnRead) -> list[Any]:
    rows = FixedRows(view.types)

    def take(chunk: bytes) -> None:
        rows.feed(chunk)
        on_read(view.name, len(rows))

    try:
        await _copy(connection, f"select {view.columns} from animora.{view.name}", take)
        return rows.columns()
    except ValueError as error:
        raise DatabaseError(f"animora.{view.name} {error}, which none of its columns may") from error


async def _read_posts(connection: asyncpg.Connection, on_read: OnRead) -> Posts:
    decoder = RowDecoder()
    fixed: list[tuple[int, int, float, bool]] = []
    image, caption = EmbeddingColumn("image_embedding"), EmbeddingColumn("caption_embedding")

    def take(chunk: bytes) -> None:
        for row in decoder.feed(chunk):
            values = row[:-2]
            if any(value is None for value in values):
                raise DatabaseError("animora.posts holds a null in id, author_id or created_at")
            fixed.append(POST_FIELDS.unpack(b"".join(value for value in values if value is not None)))
            image.append(fixed[-1][0], row[-2])
            caption.append(fixed[-1][0], row[-1])
        on_read("posts", len(fixed))

    await _copy(connection, POSTS, take)
    ids, authors, created, deleted = zip(*fixed, strict=True) if fixed else ((), (), (), ())
    posts = Posts(
        ids=np.array(ids, np.int64),
        authors=np.array(authors, np.int64),
        created=np.array(created, np.float64),
        deleted=np.array(deleted, np.bool_),
        image=image.matrix(),
        caption=caption.matrix(),
    )
    if (posts.ids[1:] == posts.ids[:-1]).any():
        raise DatabaseError("animora.posts shows an id twice")
    return posts


class EmbeddingColumn:
    """The embeddings of one column, all of one width or null."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._rows: list[npt.NDArray[np.float16] | None] = []
        self._width = 0

    def append(self, post_id: int, field: memoryview | None) -> None:
        """Takes a post's embedding; an empty one counts as null.

        Raises:
            DatabaseError: It is of another width than those before, or holds what no float16 can.
        """
        if field is None:
            self._rows.append(None)
            return
        try:
            vector = decode_real_array(field)
        except ValueError as error:
            raise DatabaseError(f"animora.posts: {self._name} of post {post_id} {error}") from error
        if not len(vector):
            self._rows.append(None)
            return
        self._width = self._width or len(vector)
        if len(vector) != self._width:
            raise DatabaseError(
                f"animora.posts: {self._name} of post {post_id} has {len(vector)} numbers, "
                f"others have {self._width}"
            )
        if not (np.abs(vector) <= FLOAT16_MAX).all():
            raise DatabaseError(
                f"animora.posts: {self._name} of post {post_id} holds a number that is not finite "
                f"or beyond {FLOAT16_MAX:g}"
            )
        self._rows.append(vector.astype(np.float16))

    def matrix(self) -> FloatArray:
        """All rows, float32 (p, width), zeros where absent."""
        matrix = np.zeros((len(self._rows), self._width), np.float32)
        for index, row in enumerate(self._rows):
            if row is not None:
                matrix[index] = row
        return matrix
