"""Opens connections to PostgreSQL through asyncpg, and translates the errors of the driver."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import structlog
from pydantic import SecretStr

from animora_database import ConnectionOptions, InvalidDsn, parse_dsn
from animora_database.connecting import DRIVER_ERRORS, open_connection
from animora_process.password_file import PasswordFileError
from animora_server.errors import ConfigurationError, StoreError
from animora_server.settings import DatabaseSettings

log = structlog.get_logger(__name__)


class Connector:
    """Opens connections to the database that one option names.

    Args:
        option: The option's name, for errors and the log.
        url: The option's value, a libpq connection string.
        settings: The timeouts.

    Raises:
        ConfigurationError: The connection string or the password file cannot be used.
    """

    def __init__(self, option: str, url: SecretStr, settings: DatabaseSettings) -> None:
        self._settings = settings
        self._options = _parse(option, url, settings.password_file)
        if self._options.without_effect:
            log.warning(
                "connection string options without effect",
                option=option,
                without_effect=", ".join(self._options.without_effect),
            )

    async def connect(self, **arguments: Any) -> asyncpg.Connection:
        """Opens a connection with the timeouts of the settings.

        Args:
            arguments: Further arguments of asyncpg.connect.

        Raises:
            StoreError: PostgreSQL did not answer or refused the connection.
        """
        with translate_errors():
            return await open_connection(
                self._options,
                self._settings.timeout,
                "animora-server",
                command_timeout=self._settings.command_timeout,
                # A pooler may give each transaction another server process, without our prepared statements.
                statement_cache_size=0,
                **arguments,
            )


def _parse(option: str, url: SecretStr, password_file: Path | None) -> ConnectionOptions:
    try:
        options = parse_dsn(url.get_secret_value())
        options.check_files()
        return options.with_password_file(password_file)
    except InvalidDsn as error:
        raise ConfigurationError(f"{option}: {error}") from error
    except PasswordFileError as error:
        raise ConfigurationError(f"database.password_file: {error}") from error


@contextmanager
def translate_errors() -> Iterator[None]:
    """Turns the errors of asyncpg and the network into StoreError."""
    try:
        yield
    except TimeoutError as error:
        raise StoreError("PostgreSQL did not answer in time") from error
    except PermissionError as error:
        # asyncpg looks for certificates in ~/.postgresql unless the connection string has an sslmode.
        raise StoreError(f"{error}: set sslmode in database.url, or make ~/.postgresql readable") from error
    except (*DRIVER_ERRORS, ValueError) as error:
        raise StoreError(f"PostgreSQL: {type(error).__name__}: {error}") from error
