"""A view on its way out of PostgreSQL: its query, and the decoding of what binary COPY sends."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg
import numpy.typing as npt

from animora_training.data.pgcopy import FixedRows
from animora_training.errors import DatabaseError, TrainingError

# A decoder is given at least as much at a time, so that its cost is that of the bytes and not of the calls.
BYTES_AT_ONCE = 4 << 20

OnRead = Callable[[str, int], None]
Columns = list[npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class CopySource:
    """A view, a query for what is read of it, and the fields of its rows that are never null."""

    name: str
    query: str
    fields: Mapping[str, str]


async def copy_fixed(
    connection: asyncpg.Connection, view: CopySource, on_read: OnRead, take: Callable[[Columns], None]
) -> None:
    """Feeds a view whose fields are never null to a function, some columns' rows at a time.

    Raises:
        DatabaseError: A field is null.
    """
    rows, read = FixedRows(view.fields), 0

    def decode(data: bytes) -> None:
        nonlocal read
        columns = rows.feed(data)
        take(columns)
        read += len(columns[0])
        on_read(view.name, read)

    await copy(connection, view, decode, rows.finish)


async def copy(
    connection: asyncpg.Connection, view: CopySource, take: Callable[[bytes], None], end: Callable[[], None]
) -> None:
    """Feeds the stream of a view to a function, then calls another, and raises what they raised afterwards.

    Raised in the midst of a COPY it would leave the connection waiting for ever.

    Raises:
        DatabaseError: One of the functions raised ValueError, the text of which names a field.
        TrainingError: As one of them raised it.
    """
    errors: list[Exception] = []
    pending = bytearray()

    def flush() -> None:
        data = bytes(pending)
        pending.clear()
        take(data)

    async def guarded(chunk: bytes) -> None:
        if errors:
            return
        pending.extend(chunk)
        if len(pending) < BYTES_AT_ONCE:
            return
        try:
            flush()
        except (ValueError, TrainingError) as error:
            errors.append(error)

    await connection.copy_from_query(view.query, output=guarded, format="binary")
    try:
        if errors:
            raise errors[0]
        flush()
        end()
    except ValueError as error:
        raise DatabaseError(f"animora.{view.name} {error}, which that column must not") from error
