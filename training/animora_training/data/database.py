"""Connects to PostgreSQL and turns its errors into DatabaseError with a remedy."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from animora_database import parse_dsn
from animora_database.connecting import DRIVER_ERRORS, open_connection
from animora_process.password_file import PasswordFileError
from animora_training.errors import DatabaseError

log = logging.getLogger(__name__)

CONNECT_TIMEOUT = 10.0  # seconds


@dataclass(frozen=True, slots=True)
class Database:
    """The database of a command.

    Attributes:
        url: Connection string.
        password_file: File with the password; None if the string has it, or none is needed.
    """

    url: str
    password_file: Path | None = None


@asynccontextmanager
async def connect(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """Context manager with a connection to PostgreSQL.

    Raises:
        DatabaseError: PostgreSQL cannot be reached, failed within the block, or lacks a view or table.
    """
    try:
        options = parse_dsn(database.url)
        options.check_files()
        options = options.with_password_file(database.password_file)
        if options.without_effect:
            log.warning("--database-url: options without effect: %s", ", ".join(options.without_effect))
        connection = await open_connection(options, CONNECT_TIMEOUT, "animora-train")
    except PasswordFileError as error:
        raise DatabaseError(f"--database-password-file: {error}") from error
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
