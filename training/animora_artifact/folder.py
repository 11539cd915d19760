"""Reads and writes a version as a folder of files."""

import errno
import os
import shutil
import stat
import tempfile
from pathlib import Path

from animora_artifact.artifact import Artifact
from animora_artifact.durability import make_folder, remove_stale, sync_folder, write_durably
from animora_artifact.errors import ArtifactRejected, RejectionReason, StoreUnavailable, VersionNotFound
from animora_artifact.manifest import Manifest
from animora_artifact.package import Package, SignatureCheck, SizeLimit, pack, read_package, unpack

# Name prefixes of versions and pointers (see folder_store) that are being written.
STAGING = ".staging-"
POINTER_STAGING = ".active-"


class FolderSource:
    """Reads a version's files from a folder, without following links and with a size limit."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str, max_bytes: int) -> bytes:
        """See package.Source."""
        return read_plain_file(self._folder / name, max_bytes)


def read_folder(folder: Path, check: SignatureCheck | None = None, limit: SizeLimit | None = None) -> Package:
    """Reads the version in a folder named like it; arguments and errors as in `read_package`."""
    return read_package(FolderSource(folder), folder.name, check, limit)


def write_folder(package: Package, folder: Path) -> Manifest:
    """Writes a version to a new folder, atomically.

    Removes unfinished versions of killed writers from the parent folder if they are older than a day.

    Args:
        package: The version.
        folder: The new folder; missing parents are created.

    Returns:
        The manifest.

    Raises:
        StoreUnavailable: The folder exists, or cannot be written.
    """
    try:
        make_folder(folder.parent)
        remove_stale(folder.parent, (STAGING, POINTER_STAGING))
        staging = Path(tempfile.mkdtemp(prefix=STAGING, dir=folder.parent))
        try:
            staging.chmod(0o755)
            for name, content in package.files().items():
                write_durably(staging / name, content)
            sync_folder(staging)
            staging.rename(folder)
        except OSError:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        sync_folder(folder.parent)
    except OSError as error:
        version = package.manifest.version
        if error.errno in {errno.ENOTEMPTY, errno.EEXIST} and folder.exists():
            raise StoreUnavailable(f"the version {version} exists already") from error
        raise StoreUnavailable(f"cannot write the version {version}: {error.strerror}") from error
    return package.manifest


def read_artifact(folder: Path) -> Artifact:
    """Reads the version in a folder without checking a signature; errors as in `read_package`."""
    return unpack(read_folder(folder))


def write_artifact(artifact: Artifact, folder: Path) -> Manifest:
    """Writes an unsigned version; see `write_folder`."""
    return write_folder(pack(artifact), folder)


def read_plain_file(path: Path, max_bytes: int) -> bytes:
    """Reads a regular file of at most `max_bytes`, without following a link.

    Raises:
        VersionNotFound: The file does not exist.
        ArtifactRejected: The file is larger, a link, or not a regular file.
        StoreUnavailable: The file cannot be read.
    """
    try:
        content = read_regular_file(path, max_bytes, getattr(os, "O_NOFOLLOW", 0))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise VersionNotFound(f"there is no {path.parent.name}/{path.name}") from error
    except OSError as error:
        if error.errno == errno.ELOOP:  # O_NOFOLLOW met a link
            raise ArtifactRejected(RejectionReason.FILE_TYPE, f"{path.name} is a link") from error
        raise StoreUnavailable(f"cannot read {path.name}: {error.strerror}") from error
    if content is None:
        raise ArtifactRejected(RejectionReason.SIZE, f"{path.name} has more than {max_bytes} bytes")
    return content


def read_regular_file(path: Path, max_bytes: int, flags: int = 0) -> bytes | None:
    """Reads a regular file. Does not block on a named pipe.

    Args:
        path: Path of the file.
        max_bytes: Maximum size.
        flags: Additional flags of open(2).

    Returns:
        The content; None if it is larger than `max_bytes`.

    Raises:
        ArtifactRejected: The path is not a regular file.
        OSError: The file cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | flags)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ArtifactRejected(RejectionReason.FILE_TYPE, f"{path.name} is not a regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            if found.st_size > max_bytes:
                return None
            # Not max_bytes: read() allocates its argument in advance.
            content = file.read(found.st_size + 1)
            return content if len(content) <= max_bytes else None
    finally:
        os.close(descriptor)
