"""What can be wrong with a model version or its store.

ArtifactError
├── ArtifactRejected(reason)   the version is not what its manifest says, or not fit to serve
├── VersionNotFound            the store has no such version
├── CompiledUnusable           a version's compiled code cannot run here; TorchScript can
├── ActivationLost             someone else moved the active pointer first
└── StoreUnavailable           the store cannot be read or written now
"""

from enum import StrEnum


class RejectionReason(StrEnum):
    """Why a version is refused: a closed set, so that it can label a metric."""

    MANIFEST = "manifest"
    FORMAT = "format"
    FILE_TYPE = "file_type"
    SIZE = "size"
    TOO_LARGE = "too_large"
    DIGEST = "digest"
    SIGNATURE = "signature"
    CONTENT = "content"
    DIMENSIONS = "dimensions"
    GOLDEN = "golden"
    CRASH = "crash"
    MEMORY = "memory"


class ArtifactError(Exception):
    """The root of this package's errors."""


class ArtifactRejected(ArtifactError):
    """A version that must not be served."""

    def __init__(self, reason: RejectionReason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


class VersionNotFound(ArtifactError):
    """The store has no version of this name."""


class CompiledUnusable(ArtifactError):
    """A version's compiled code cannot run here, on this machine or for this network; TorchScript can."""


class ActivationLost(ArtifactError):
    """The active pointer is not where the caller has seen it."""

    def __init__(self, active: str | None) -> None:
        super().__init__(
            f"someone else was first: {active or 'no version'} is active now, and nothing was changed"
        )
        self.active = active


class StoreUnavailable(ArtifactError):
    """The store could not be read or written."""
