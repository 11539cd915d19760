"""A model store in a folder of a local or shared file system."""

import os
import tempfile
from pathlib import Path

from filelock import FileLock, Timeout

from animora_artifact.artifact import Artifact
from animora_artifact.durability import replace_durably, write_durably
from animora_artifact.errors import (
    ArtifactError,
    ArtifactRejected,
    RejectionReason,
    StoreUnavailable,
    VersionNotFound,
)
from animora_artifact.folder import (
    POINTER_STAGING,
    STAGING,
    FolderSource,
    read_folder,
    read_plain_file,
    read_regular_file,
    write_folder,
)
from animora_artifact.manifest import MARKS, Manifest, checked_name, is_name, mark_of
from animora_artifact.package import (
    Package,
    SignatureCheck,
    SizeLimit,
    is_signed,
    pack,
    read_manifest,
    unpack,
)
from animora_artifact.pointer import (
    ACTIVE,
    ANYTHING,
    MAX_POINTER_BYTES,
    UNSIGNED,
    Expected,
    Pointer,
    PointerKeys,
    activate,
    read_pointer,
    roll_back,
)
from animora_artifact.store import VersionListing

# Bytes written by `require_writable`; a disk without room for them has none for a version.
TRIED_BYTES = 1 << 16
MAX_MARK_BYTES = 1 << 10


class FolderStore:
    """A ModelStore in a folder: a version is a folder, the pointer a file.

    Args:
        root: Folder of the versions; created when the first version is added.
        check: Signature check for reading versions; None accepts unsigned versions.
        limit: Maximum total size of a version's files; None for no limit.
        keys: The keys of ACTIVE; by default it is not signed.
        lock_timeout: Seconds to wait for the lock of the pointer, which writers hold for milliseconds.
    """

    def __init__(
        self,
        root: Path,
        check: SignatureCheck | None = None,
        limit: SizeLimit | None = None,
        keys: PointerKeys = UNSIGNED,
        lock_timeout: float = 10.0,
    ) -> None:
        self._root = root
        self._check = check
        self._limit = limit
        self._keys = keys
        self._pointer = _PointerFile(root, lock_timeout)

    def names(self) -> list[str]:
        """See ModelStore."""
        try:
            return [entry.name for entry in self._root.iterdir() if is_name(entry.name) and entry.is_dir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreUnavailable(f"cannot list the model store: {error.strerror}") from error

    def listing(self) -> VersionListing:
        """See ModelStore."""
        found: list[tuple[str, Manifest | None]] = []
        for name in self.names():
            try:
                found.append((name, self.manifest(name)))
            except VersionNotFound:
                continue
            except ArtifactError:
                found.append((name, None))
        return VersionListing.of(found)

    def pointer(self) -> Pointer:
        """See ModelStore."""
        return read_pointer(self._pointer, self._keys)

    def active(self) -> str | None:
        """See ModelStore."""
        return self.pointer().active

    def manifest(self, version: str) -> Manifest:
        """See ModelStore."""
        return read_manifest(FolderSource(self._folder(version)), version)

    def read(self, version: str) -> Artifact:
        """See ModelStore."""
        return unpack(read_folder(self._folder(version), self._check, self._limit))

    def is_signed(self, version: str) -> bool:
        """See ModelStore."""
        return is_signed(FolderSource(self._folder(version)), self._check)

    def require_writable(self) -> None:
        """See ModelStore. If the folder does not exist, its nearest existing parent is checked."""
        try:
            with tempfile.NamedTemporaryFile(prefix=STAGING, dir=_nearest(self._root)) as file:
                file.write(bytes(TRIED_BYTES))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StoreUnavailable(f"cannot write to {self._root}: {error.strerror}") from error

    def add(self, package: Package) -> Manifest:
        """See ModelStore."""
        return write_folder(package, self._folder(package.manifest.version))

    def publish(self, artifact: Artifact) -> Manifest:
        """See ModelStore."""
        return self.add(pack(artifact))

    def is_verified(self, manifest: Manifest) -> bool:
        """See ModelStore."""
        try:
            return read_plain_file(self._mark(manifest), MAX_MARK_BYTES) == mark_of(manifest)
        except ArtifactError:
            return False

    def mark_verified(self, manifest: Manifest) -> None:
        """See ModelStore."""
        try:
            self._mark(manifest).parent.mkdir(exist_ok=True)
            self._mark(manifest).unlink(missing_ok=True)  # a link would redirect the write
            write_durably(self._mark(manifest), mark_of(manifest))
        except OSError as error:
            raise StoreUnavailable(f"cannot write to {self._root}: {error.strerror}") from error

    def activate(self, version: str, expected: Expected = ANYTHING) -> None:
        """See ModelStore."""
        self.manifest(version)
        activate(self._pointer, version, expected, self._keys)

    def rollback(self, seen: Pointer) -> None:
        """See ModelStore."""
        if seen.previous is not None:
            self.manifest(seen.previous)
        roll_back(self._pointer, seen, self._keys)

    def _mark(self, manifest: Manifest) -> Path:
        return self._root / MARKS / checked_name(manifest.version)

    def _folder(self, version: str) -> Path:
        folder = self._root / checked_name(version)
        try:
            link = folder.is_symlink()
        except OSError as error:
            raise StoreUnavailable(f"cannot read the version {version}: {error.strerror}") from error
        if link:
            raise ArtifactRejected(RejectionReason.FILE_TYPE, f"the version {version} is a link")
        return folder


def _nearest(path: Path) -> Path:
    """The path, or its nearest existing parent. Raises OSError for an invalid path."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return _nearest(path.parent)
    return path


class _PointerFile:
    """The file ACTIVE, replaced by a rename under a lock (flock) on a separate lock file.

    Readers need no lock: a rename is atomic, over NFS too. The kernel releases the lock when its holder dies;
    Linux supports flock over NFS since 2.6.12.
    """

    def __init__(self, root: Path, lock_timeout: float) -> None:
        self._path = root / ACTIVE
        self._lock_timeout = lock_timeout
        self._lock_path = root / f".{ACTIVE}.lock"

    def load(self) -> tuple[bytes | None, bytes | None]:
        """See PointerFile; the content is its own token."""
        try:
            # A file that is too large is treated as damaged.
            content = read_regular_file(self._path, MAX_POINTER_BYTES) or b""
        except FileNotFoundError:
            return None, None
        except OSError as error:
            raise StoreUnavailable(f"cannot read the active pointer: {error.strerror}") from error
        return content, content

    def swap(self, content: bytes, token: bytes | None) -> bool:
        """See PointerFile."""
        try:
            with FileLock(self._lock_path, timeout=self._lock_timeout):
                if self.load()[1] != token:
                    return False
                self._replace(content)
                return True
        except Timeout as error:
            raise StoreUnavailable(
                f"the active pointer was locked for {self._lock_timeout:g} s: does another program hold "
                f"{self._lock_path.name}?"
            ) from error
        except NotImplementedError as error:
            raise StoreUnavailable("the store's file system has no locks (flock)") from error
        except OSError as error:
            raise StoreUnavailable(f"cannot write the active pointer: {error.strerror}") from error

    def _replace(self, content: bytes) -> None:
        descriptor, name = tempfile.mkstemp(prefix=POINTER_STAGING, dir=self._path.parent)
        staging = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            staging.chmod(0o644)
            replace_durably(staging, self._path)
        except OSError:
            staging.unlink(missing_ok=True)
            raise
