"""Files and folders that a power failure leaves as they were written.

A file's content is on the disk once the file is synchronised, its name once its folder is.
"""

import errno
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

# Nobody takes so long to write a version or a pointer, in seconds.
STALE_AFTER = 86_400.0
# What network file systems answer that cannot synchronise a folder.
_UNSUPPORTED = {errno.EINVAL, errno.ENOTSUP}


def write_durably(path: Path, content: bytes) -> None:
    """Writes a new file and synchronises it; its name is durable once its folder is. Raises OSError."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def require_room(path: Path, size: int) -> None:
    """Tries whether a new file may have so many bytes; it is removed again. Raises OSError."""
    try:
        with path.open("xb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            elif shutil.disk_usage(path.parent).free < size:  # macOS, Windows
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        path.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Has the disk keep what was written to a file. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_durably(staging: Path, path: Path) -> None:
    """Renames a synchronised file to one of the same folder, over what is there. Raises OSError."""
    staging.replace(path)
    sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Makes a folder and its parents where they are missing. Raises OSError."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync_folder(made.parent)


def sync_folder(folder: Path) -> None:
    """Has the disk keep the names in a folder, where its file system can do that. Raises OSError."""
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:  # a folder that may be written and not be read
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)


def remove_stale(folder: Path, prefixes: tuple[str, ...], now: float | None = None) -> None:
    """Removes what writers that were killed have left in a folder, as far as it can be removed.

    Args:
        folder: Where.
        prefixes: What the names of unfinished files and folders begin with. Those that were written to within
            STALE_AFTER stay: their writer may be alive.
        now: Seconds since the epoch; by default the system's clock.
    """
    now = time.time() if now is None else now
    for leftover in [entry for entry in folder.iterdir() if entry.name.startswith(prefixes)]:
        with suppress(OSError):  # its writer has just finished, or it is somebody else's
            written = max(one.lstat().st_mtime for one in (leftover, *leftover.glob("*")))
            if now - written < STALE_AFTER:
                continue
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()
