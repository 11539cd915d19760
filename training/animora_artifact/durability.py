"""Durable writes: files and folders that survive a power failure.

A file's content is durable after fsync of the file, its name after fsync of the folder.
"""

import errno
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

# Seconds; longer than any write of a version or a pointer takes.
STALE_AFTER = 86_400.0
# Errors of network file systems that cannot fsync a folder.
_UNSUPPORTED = {errno.EINVAL, errno.ENOTSUP}


def write_durably(path: Path, content: bytes) -> None:
    """Writes a new file with fsync; the name is durable after fsync of the folder. Raises OSError."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def require_room(path: Path, size: int) -> None:
    """Checks that there is room for a file of `size` bytes, by allocating one. Raises OSError."""
    try:
        with path.open("xb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            elif shutil.disk_usage(path.parent).free < size:  # macOS, Windows
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        path.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Calls fsync on a file. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_durably(staging: Path, path: Path) -> None:
    """Atomically replaces a file by a synchronised one of the same folder. Raises OSError."""
    staging.replace(path)
    sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Creates a folder and missing parents, durably. Raises OSError."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync_folder(made.parent)


def sync_folder(folder: Path) -> None:
    """Calls fsync on a folder, if its file system supports that. Raises OSError."""
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:  # a writable folder that is not readable
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)


def remove_stale(folder: Path, prefixes: tuple[str, ...], now: float | None = None) -> None:
    """Removes unfinished files and folders that killed writers left in a folder. Ignores failures.

    Args:
        folder: The folder.
        prefixes: Prefixes of unfinished files and folders. Those written to within STALE_AFTER stay: their
            writer may be alive.
        now: Seconds since the epoch; by default the system's clock.
    """
    now = time.time() if now is None else now
    for leftover in [entry for entry in folder.iterdir() if entry.name.startswith(prefixes)]:
        with suppress(OSError):  # its writer has just finished, or another user owns it
            written = max(one.lstat().st_mtime for one in (leftover, *leftover.glob("*")))
            if now - written < STALE_AFTER:
                continue
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()
