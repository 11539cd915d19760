"""Streams a view out of PostgreSQL by binary COPY to a decoder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg
import numpy.typing as npt

from animora_training.data.pgcopy import FixedRows
from animora_training.errors import DatabaseError, TrainingError

# Bytes that are collected for a call of a decoder, so that the cost per call is small.
BYTES_AT_ONCE = 4 << 20

OnRead = Callable[[str, int], None]
Columns = list[npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class CopySource:
    """A view, the query to read, and names and NumPy types of its fixed fields, which are never null."""

    name: str
    query: str
    fields: Mapping[str, str]


async def copy_fixed(
    connection: asyncpg.Connection, view: CopySource, on_read: OnRead, take: Callable[[Columns], None]
) -> None:
    """Streams a view with fixed fields to a function, as columns of some rows at a time.

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
    """Streams a view to `take` in chunks, then calls `end`. Their errors are raised after the COPY has ended.

    An error raised within a COPY would leave the connection waiting for ever.

    Raises:
        DatabaseError: `take` or `end` raised ValueError; its text names a field.
        TrainingError: `take` or `end` raised it.
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
