"""Connects to PostgreSQL and turns its errors into DatabaseError with a remedy."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from animora_database import parse_dsn
from animora_database.connecting import DRIVER_ERRORS, open_connection
from animora_training.errors import DatabaseError

log = logging.getLogger(__name__)

CONNECT_TIMEOUT = 10.0  # seconds


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Context manager with a connection to PostgreSQL.

    Raises:
        DatabaseError: PostgreSQL cannot be reached, failed within the block, or lacks a view or table.
    """
    try:
        options = parse_dsn(url)
        options.check_files()
        if options.without_effect:
            log.warning("--database-url: options without effect: %s", ", ".join(options.without_effect))
        connection = await open_connection(options, CONNECT_TIMEOUT, "animora-train")
    except TimeoutError as error:
        raise DatabaseError("--database-url: PostgreSQL did not answer in time") from error
    except (*DRIVER_ERRORS, ValueError) as error:
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
    except DRIVER_ERRORS as error:
        raise DatabaseError(f"PostgreSQL failed: {error}") from error
    finally:
        # close() can hang on a frozen server.
        connection.terminate()
