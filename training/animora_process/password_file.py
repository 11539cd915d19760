"""A password in a file, which may be replaced while the program runs."""

import logging
import os
import stat
from pathlib import Path

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
        with open(path, "rb", opener=_open_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise PasswordFileError(f"{path} is not a regular file")
            content = file.read(MAX_BYTES + 1)
    except PasswordFileError:
        raise
    except OSError as error:
        raise PasswordFileError(f"cannot read {path} ({error.strerror})") from error
    if len(content) > MAX_BYTES:
        raise PasswordFileError(f"{path} has more than {MAX_BYTES:,} bytes")
    try:
        password = content.decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise PasswordFileError(f"{path} is not UTF-8 text") from None
    if not password:
        raise PasswordFileError(f"{path} is empty")
    if any(character in password for character in "\0\r\n"):
        raise PasswordFileError(f"{path} must hold the password alone, in one line")
    return password


def _open_without_waiting(path: str, flags: int) -> int:
    # Otherwise opening a FIFO waits for its writer.
    return os.open(path, flags | os.O_NONBLOCK)
