"""Connections to PostgreSQL through asyncpg, and what goes wrong with them."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
from pydantic import SecretStr

from animora_server.errors import ConfigurationError, StoreError
from animora_server.settings import DatabaseSettings


async def connect(url: SecretStr, settings: DatabaseSettings) -> asyncpg.Connection:
    """A connection to a database, with the timeouts of the settings.

    Raises:
        ConfigurationError: The URL is no DSN, or asks for what cannot be had.
        StoreError: PostgreSQL does not answer.
    """
    with translated(), _option_named("database.url" if url == settings.url else "database.listen_url"):
        return await asyncpg.connect(
            url.get_secret_value(),
            timeout=settings.timeout,
            command_timeout=settings.command_timeout,
            # A pooler may give each transaction another server, which does not know our statements.
            statement_cache_size=0,
            server_settings={"application_name": "animora-server"},
        )


@contextmanager
def _option_named(option: str) -> Iterator[None]:
    try:
        yield
    except asyncpg.ClientConfigurationError as error:
        raise ConfigurationError(f"{option}: {error}") from error
    except ValueError as error:  # its text may quote a password
        raise ConfigurationError(f"{option}: not a DSN, such as postgresql://user@host:5432/name") from error


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
        raise StoreError(f"PostgreSQL: {type(error).__name__}: {error}") from error
