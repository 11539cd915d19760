"""What can be wrong with a model version or its store.

ArtifactError
├── ArtifactRejected(reason)   the version is not what its manifest says, or not fit to serve
├── VersionNotFound            the store has no such version
└── StoreUnavailable           the store cannot be read or written now
"""

from enum import StrEnum


class RejectionReason(StrEnum):
    """Why a version is refused: a closed set, so that it can label a metric."""

    MANIFEST = "manifest"
    FORMAT = "format"
    FILE_TYPE = "file_type"
    SIZE = "size"
    DIGEST = "digest"
    CONTENT = "content"
    DIMENSIONS = "dimensions"
    GOLDEN = "golden"


class ArtifactError(Exception):
    """The root of this package's errors."""


class ArtifactRejected(ArtifactError):
    """A version that must not be served."""

    def __init__(self, reason: RejectionReason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason


class VersionNotFound(ArtifactError):
    """The store has no version of this name."""


class StoreUnavailable(ArtifactError):
    """The store could not be read or written."""
