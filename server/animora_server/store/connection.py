"""Connections to PostgreSQL through asyncpg, and what goes wrong with them."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
from pydantic import SecretStr

from animora_server.errors import StoreError
from animora_server.settings import DatabaseSettings


async def connect(url: SecretStr, settings: DatabaseSettings) -> asyncpg.Connection:
    """A connection to a database, with the timeouts of the settings.

    Raises:
        StoreError: PostgreSQL does not answer.
    """
    with translated():
        return await asyncpg.connect(
            url.get_secret_value(),
            timeout=settings.timeout,
            command_timeout=settings.command_timeout,
            # A pooler may give each transaction another server, which does not know our statements.
            statement_cache_size=0,
            server_settings={"application_name": "animora-server"},
        )


@contextmanager
def translated() -> Iterator[None]:
    """Turns what asyncpg and the network raise into StoreError."""
    try:
        yield
    except TimeoutError as error:
        raise StoreError("PostgreSQL did not answer in time") from error
    except PermissionError as error:
        # asyncpg looks there for certificates unless the DSN says how TLS is meant.
        raise StoreError(f"{error}: set sslmode in database.url, or make ~/.postgresql readable") from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
        raise StoreError(f"{type(error).__name__}: {error}") from error
