"""A password in a file, which may be replaced while the program runs."""

import logging
from pathlib import Path

from animora_process.small_file import UnusableFile, read_small_file

log = logging.getLogger(__name__)

MAX_BYTES = 64 << 10


class PasswordFileError(OSError):
    """A password file cannot be used; the text names the file, and quotes nothing of it."""


class PasswordFile:
    """The password in a file. Read it for each connection, so that a connection has the newest password.

    The file holds the password alone, in UTF-8. The end of the line does not count.

    Args:
        path: The file.

    Raises:
        PasswordFileError: The file cannot be read, is empty, or holds more than one line.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last = _read(path)

    def current(self) -> str:
        """The password in the file; the last one, with a warning, while the file cannot be used.

        Reads the file, so a coroutine calls it on a thread. Thread-safe.
        """
        try:
            self._last = _read(self._path)
        except PasswordFileError as error:
            log.warning("password file not usable; the last password stays in use: %s", error)
        return self._last


def _read(path: Path) -> str:
    try:
        content = read_small_file(path, MAX_BYTES)
    except UnusableFile as error:
        raise PasswordFileError(str(error)) from error
    try:
        password = content.decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise PasswordFileError(f"{path} is not UTF-8 text") from None
    if not password:
        raise PasswordFileError(f"{path} is empty")
    if any(character in password for character in "\0\r\n"):
        raise PasswordFileError(f"{path} must hold the password alone, in one line")
    return password
