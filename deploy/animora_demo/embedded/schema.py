"""Applies Animora's tables, views and read-only role to a database."""

from pathlib import Path

import asyncpg

from animora_server.errors import StoreError

PACKAGE = Path(__file__).resolve().parents[1]
# A wheel has the files in the package; a checkout in deploy/sql.
LOCATIONS = (PACKAGE / "sql", PACKAGE.parent / "sql")
# An advisory lock, because concurrent `create … if not exists` statements can fail.
LOCK = 0x616E696D6F7261


async def apply_schema(url: str) -> None:
    """Creates the schemas `animora_app` and `animora` and the role `animora_reader` if missing.

    Args:
        url: DSN of a role that may create schemas and roles.

    Raises:
        StoreError: PostgreSQL cannot be reached or rejects the statements.
    """
    try:
        connection = await asyncpg.connect(url, timeout=10)
        try:
            async with connection.transaction():
                await connection.execute("select pg_advisory_xact_lock($1)", LOCK)
                for file in schema_files():
                    await connection.execute(file.read_text())
        finally:
            await connection.close(timeout=10)
    except (OSError, asyncpg.PostgresError) as error:
        raise StoreError(f"cannot apply the schema: {error}") from error


def schema_files() -> list[Path]:
    """The numbered SQL files in order; adapters have no number and are applied by hand.

    Raises:
        StoreError: The installation has no SQL files.
    """
    for location in LOCATIONS:
        files = sorted(location.glob("[0-9]*.sql"))
        if files:
            return files
    raise StoreError("this installation has no SQL files")
