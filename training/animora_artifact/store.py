"""Model stores: versions side by side, and a pointer to the active one."""

import os
import re
import tempfile
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from animora_artifact.artifact import Artifact, read_artifact, read_manifest, write_artifact
from animora_artifact.errors import (
    ArtifactError,
    ArtifactRejected,
    RejectionReason,
    StoreUnavailable,
)
from animora_artifact.manifest import VERSION_PATTERN, Manifest

ACTIVE = "ACTIVE"
MAX_POINTER_BYTES = 256


class ModelStore(Protocol):
    """Where versions live. Every method may raise StoreUnavailable."""

    def versions(self) -> list[Manifest]:
        """The whole versions, oldest first; half-written or foreign folders are passed over."""
        ...

    def active(self) -> str | None:
        """The name of the active version, or None. Raises ArtifactRejected if the pointer holds no name."""
        ...

    def read(self, version: str) -> Artifact:
        """A version, verified. Raises VersionNotFound or ArtifactRejected."""
        ...

    def publish(self, artifact: Artifact) -> Manifest:
        """Adds a version. It is not active yet. Raises StoreUnavailable where it exists already."""
        ...

    def activate(self, version: str) -> None:
        """Points ACTIVE at a version. Raises VersionNotFound or ArtifactRejected."""
        ...


class FolderStore:
    """A folder on a local or shared file system."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def versions(self) -> list[Manifest]:
        """See ModelStore."""
        try:
            names = [
                entry.name for entry in self._root.iterdir() if re.fullmatch(VERSION_PATTERN, entry.name)
            ]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreUnavailable(f"cannot list the model store: {error.strerror}") from error
        manifests = []
        for name in names:
            try:
                manifests.append(read_manifest(self._root / name))
            except ArtifactError:
                continue  # not a version, or not one that could be served
        return sorted(manifests, key=lambda manifest: (manifest.created_at, manifest.version))

    def active(self) -> str | None:
        """See ModelStore."""
        try:
            with (self._root / ACTIVE).open("rb") as file:
                name = file.read(MAX_POINTER_BYTES).decode("ascii", "replace").strip()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreUnavailable(f"cannot read the active pointer: {error.strerror}") from error
        return _checked(name)

    def read(self, version: str) -> Artifact:
        """See ModelStore."""
        return read_artifact(self._folder(version))

    def publish(self, artifact: Artifact) -> Manifest:
        """See ModelStore."""
        return write_artifact(artifact, self._folder(artifact.manifest.version))

    def activate(self, version: str) -> None:
        """See ModelStore."""
        read_manifest(self._folder(version))
        try:
            descriptor, staging = tempfile.mkstemp(prefix=".active-", dir=self._root)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(version + "\n")
                file.flush()
                os.fsync(file.fileno())
            Path(staging).chmod(0o644)
            Path(staging).replace(self._root / ACTIVE)
        except OSError as error:
            raise StoreUnavailable(f"cannot write the active pointer: {error.strerror}") from error

    def _folder(self, version: str) -> Path:
        folder = self._root / _checked(version)
        if folder.is_symlink():
            raise ArtifactRejected(RejectionReason.FILE_TYPE, f"the version {version} is a link")
        return folder


def open_store(url: str) -> ModelStore:
    """The store at a path or `file://` URL.

    Raises:
        ValueError: The URL is of a scheme that is not supported.
    """
    parts = urlsplit(url)
    if parts.scheme in ("", "file"):
        return FolderStore(Path(unquote(parts.path) if parts.scheme else url))
    raise ValueError(f"model store {url!r}: only a folder or a file:// URL is supported")


def _checked(version: str) -> str:
    """The name, if it can be a version's: no path, no dot-dot, at most 64 characters."""
    if len(version) > 64 or not re.fullmatch(VERSION_PATTERN, version):
        raise ArtifactRejected(RejectionReason.MANIFEST, "that is not a version's name")
    return version
