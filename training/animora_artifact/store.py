"""What every model store does: versions side by side, and a pointer to the active one."""

from typing import Protocol

from animora_artifact.artifact import Artifact
from animora_artifact.manifest import Manifest
from animora_artifact.package import Package
from animora_artifact.pointer import ANYTHING, Expected, Pointer


class VersionSource(Protocol):
    """Where versions are read from. Every method may raise StoreUnavailable, and none waits without end."""

    def pointer(self) -> Pointer:
        """The active version and its past. Raises ArtifactRejected if it holds no names."""
        ...

    def active(self) -> str | None:
        """The name of the active version, or None. Raises ArtifactRejected if the pointer holds no name."""
        ...

    def read(self, version: str) -> Artifact:
        """A version, verified. Raises VersionNotFound or ArtifactRejected."""
        ...


class ModelStore(VersionSource, Protocol):
    """Where versions live; see VersionSource."""

    def versions(self) -> list[Manifest]:
        """The whole versions, oldest first; half-written or foreign folders are passed over."""
        ...

    def manifest(self, version: str) -> Manifest:
        """A version's manifest alone, not verified. Raises VersionNotFound or ArtifactRejected."""
        ...

    def require_writable(self) -> None:
        """Writes something small. Raises StoreUnavailable where that fails, as adding a version would."""
        ...

    def add(self, package: Package) -> Manifest:
        """Adds a version. It is not active yet. Raises StoreUnavailable where it exists already."""
        ...

    def publish(self, artifact: Artifact) -> Manifest:
        """Adds a version that is not signed; see add."""
        ...

    def is_verified(self, manifest: Manifest) -> bool:
        """Whether `mark_verified` was called for this very version, by this release."""
        ...

    def mark_verified(self, manifest: Manifest) -> None:
        """Notes that a version was replayed (see `verification`): an activation need not do it again."""
        ...

    def activate(self, version: str, expected: Expected = ANYTHING) -> None:
        """Points ACTIVE at a version, if the expected one is active until then.

        Raises:
            VersionNotFound: There is no such version.
            ArtifactRejected: It has no valid manifest.
            ActivationLost: Another version is active than was expected.
        """
        ...

    def rollback(self, seen: Pointer) -> None:
        """Points ACTIVE at the version that was active before, if the pointer is as it was seen.

        Raises:
            VersionNotFound: There is none, or it is gone.
            ArtifactRejected: It has no valid manifest.
            ActivationLost: The pointer has moved since.
        """
        ...
