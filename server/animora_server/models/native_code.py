"""Native code is run only where somebody vouches for it: by a signature, or by trust in the store."""

from dataclasses import dataclass, replace

import structlog

from animora_artifact import Artifact, Pointer, VersionSource

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class NativeCodeGuard:
    """A store whose versions come without their compiled code unless somebody vouches for it.

    Digests find damage. They do not find someone who may write to the store, and machine code runs with the
    rights of the server.

    Attributes:
        store: Where versions are read from.
        vouched_by: Who vouches for their code, for the log; None for nobody.
    """

    store: VersionSource
    vouched_by: str | None

    def pointer(self) -> Pointer:
        """See VersionSource."""
        return self.store.pointer()

    def active(self) -> str | None:
        """See VersionSource."""
        return self.store.active()

    def read(self, version: str) -> Artifact:
        """See VersionSource."""
        artifact = self.store.read(version)
        if artifact.compiled is None:
            return artifact
        if self.vouched_by is None:
            log.warning(
                "compiled code is not loaded",
                version=version,
                reason="nobody vouches for it: have versions signed and set models.verify_key, or set "
                "models.trusted if only you can write to the store",
            )
            return replace(artifact, compiled=None)
        log.info("compiled code may be loaded", version=version, vouched_by=self.vouched_by)
        return artifact
