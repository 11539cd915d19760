"""The interface of a model store: immutable versions side by side, and a pointer to the active one."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from animora_artifact.artifact import Artifact
from animora_artifact.manifest import Manifest
from animora_artifact.package import Package
from animora_artifact.pointer import ANYTHING, Expected, Pointer


@dataclass(frozen=True, slots=True)
class VersionListing:
    """The versions of a model store.

    Attributes:
        manifests: Manifests of the readable versions, oldest first.
        unreadable: Names of the versions whose manifest is damaged or of an unknown format, sorted.
    """

    manifests: list[Manifest]
    unreadable: list[str]

    @classmethod
    def of(cls, found: Iterable[tuple[str, Manifest | None]]) -> "VersionListing":
        """From names with their manifests; None for a manifest that cannot be read."""
        entries = list(found)
        manifests = [manifest for _, manifest in entries if manifest is not None]
        manifests.sort(key=lambda manifest: (manifest.created_at, manifest.version))
        return cls(manifests, sorted(name for name, manifest in entries if manifest is None))


class VersionSource(Protocol):
    """The reading half of a model store. Every method may raise StoreUnavailable; each has a time limit."""

    def pointer(self) -> Pointer:
        """The active version and the ones active before it. Raises ArtifactRejected on a damaged pointer."""
        ...

    def active(self) -> str | None:
        """The name of the active version, or None. Raises ArtifactRejected on a damaged pointer."""
        ...

    def read(self, version: str) -> Artifact:
        """A version with verified digests and signature. Raises VersionNotFound or ArtifactRejected."""
        ...


class ModelStore(VersionSource, Protocol):
    """A model store; see VersionSource."""

    def names(self) -> list[str]:
        """The names of all versions, also of unreadable ones, in any order; some may have no manifest."""
        ...

    def listing(self) -> VersionListing:
        """All versions. Folders without a manifest (half-written or foreign) are skipped."""
        ...

    def manifest(self, version: str) -> Manifest:
        """The manifest of a version, not verified. Raises VersionNotFound or ArtifactRejected."""
        ...

    def is_signed(self, version: str) -> bool:
        """Whether a version has a signature; with a check, whether its manifest is signed by the key."""
        ...

    def require_writable(self) -> None:
        """Writes a small file or object. Raises StoreUnavailable if `add` would fail."""
        ...

    def add(self, package: Package) -> Manifest:
        """Adds a version without activating it. Raises StoreUnavailable if the name is taken."""
        ...

    def publish(self, artifact: Artifact) -> Manifest:
        """Adds an unsigned version; see `add`."""
        ...

    def is_verified(self, manifest: Manifest) -> bool:
        """Whether this release called `mark_verified` for a version with the same manifest."""
        ...

    def mark_verified(self, manifest: Manifest) -> None:
        """Records that the golden rows of a version were replayed, so that `activate` skips the replay."""
        ...

    def activate(self, version: str, expected: Expected = ANYTHING) -> None:
        """Points ACTIVE at a version if the expected version is still active.

        Raises:
            VersionNotFound: The version does not exist.
            ArtifactRejected: The version has no valid manifest.
            SignerMissing: ACTIVE has to be signed.
            ActivationLost: Another version than the expected one is active.
        """
        ...

    def rollback(self, seen: Pointer) -> None:
        """Points ACTIVE at the version that was active before, if the pointer still equals `seen`.

        Raises:
            VersionNotFound: No version was active before, or it is gone.
            ArtifactRejected: The version has no valid manifest.
            ActivationLost: The pointer has changed since it was read.
        """
        ...
