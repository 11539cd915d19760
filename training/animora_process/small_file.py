"""Reads small files that an operator names, such as keys and passwords."""

import os
import stat
from pathlib import Path


class UnusableFile(Exception):
    """A file cannot be used; the text names the file, and quotes nothing of it."""


def read_small_file(path: Path, max_bytes: int) -> bytes:
    """Reads a file whole, without waiting for it.

    Raises:
        UnusableFile: The file cannot be read, is no regular file, or has more than `max_bytes` bytes.
    """
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UnusableFile(f"{path} is not a regular file")
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise UnusableFile(f"cannot read {path} ({error.strerror})") from error
    if len(content) > max_bytes:
        raise UnusableFile(f"{path} has more than {max_bytes:,} bytes")
    return content


def _open_without_waiting(path: str, flags: int) -> int:
    # Otherwise opening a FIFO waits for its writer.
    return os.open(path, flags | os.O_NONBLOCK)
