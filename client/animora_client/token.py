"""The client's bearer token: a string, or a file that is read again when it changes."""

import time
from contextlib import suppress
from pathlib import Path

# A file that is younger may change again without a new time stamp, as those of file systems are coarse.
SETTLED_NS = 1_000_000_000


class BearerToken:
    """A token for the metadata of calls. Safe to share between threads.

    Args:
        source: The token, or the path of a file that holds nothing else.

    Raises:
        OSError: The file cannot be read.
        ValueError: The token is empty, or not printable ASCII without spaces.
    """

    def __init__(self, source: str | Path) -> None:
        self._path = source if isinstance(source, Path) else None
        self._stamp: tuple[int, int, int] | None = None
        self._header = ""
        if isinstance(source, Path):
            self._read(source)
        else:
            self._header = _header(source)

    def header(self) -> str:
        """The value of `authorization`. The last token stays while the file is missing or holds none."""
        if self._path is not None:
            with suppress(OSError, ValueError):
                self._read(self._path)
        return self._header

    def _read(self, path: Path) -> None:
        found = path.stat()
        stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
        if stamp == self._stamp:
            return
        self._header = _header(path.read_text(encoding="utf-8").strip())
        self._stamp = stamp if time.time_ns() - found.st_mtime_ns > SETTLED_NS else None


def _header(token: str) -> str:
    if not token or not all("!" <= character <= "~" for character in token):
        raise ValueError("the token must be printable ASCII without spaces, and not empty")
    return f"Bearer {token}"
