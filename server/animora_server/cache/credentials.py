"""Passwords of Redis and its Sentinels from files, which may be replaced at any time."""

import asyncio
from pathlib import Path
from typing import Any

from redis.credentials import CredentialProvider

from animora_process.password_file import PasswordFile, PasswordFileError
from animora_server.errors import ConfigurationError


class FileCredentials(CredentialProvider):
    """A user with the password of a file, which is read for each connection."""

    def __init__(self, username: str | None, file: PasswordFile) -> None:
        self._username = username
        self._file = file

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """The arguments of AUTH. Reads the file."""
        password = self._file.current()
        return (self._username, password) if self._username else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """The arguments of AUTH."""
        return await asyncio.to_thread(self.get_credentials)


def with_password_file(options: dict[str, Any], option: str, path: Path | None) -> dict[str, Any]:
    """The options of redis-py's connections with the password of a file; a path of None changes nothing.

    Args:
        options: The options of the URL.
        option: The setting that names the file, for errors.
        path: The file.

    Raises:
        ConfigurationError: The file cannot be used, or the URL has a password too.
    """
    if path is None:
        return options
    if options.get("password"):
        raise ConfigurationError(f"cache.url has a password, and {option} is set: set one of the two")
    try:
        file = PasswordFile(path)
    except PasswordFileError as error:
        raise ConfigurationError(f"{option}: {error}") from error
    others = {name: value for name, value in options.items() if name not in {"username", "password"}}
    return others | {"credential_provider": FileCredentials(options.get("username"), file)}
