"""Errors of versions and model stores.

ArtifactError
├── ArtifactRejected(reason)   the version is damaged or must not be served
│   └── SignerMissing          ACTIVE has to be signed, and there is no private key
├── VersionNotFound            the store has no such version
├── CompiledUnusable           the native code cannot run here; TorchScript can
├── ActivationLost             another program changed the active version first
└── StoreUnavailable           the store cannot be read or written now
"""

from enum import StrEnum


class RejectionReason(StrEnum):
    """Why a version is refused; a closed set of metric labels."""

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
    """Base class of this package's errors."""


class ArtifactRejected(ArtifactError):
    """A version that must not be served."""

    def __init__(self, reason: RejectionReason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


class SignerMissing(ArtifactRejected):
    """ACTIVE has to be signed, and there is no private key."""

    def __init__(self) -> None:
        super().__init__(
            RejectionReason.SIGNATURE,
            "ACTIVE has to be signed: with --sign-key, or admin.sign_key of a server",
        )


class VersionNotFound(ArtifactError):
    """The store has no version of this name."""


class CompiledUnusable(ArtifactError):
    """The native code of a version cannot run on this machine or with this network; TorchScript can."""


class ActivationLost(ArtifactError):
    """Another version than the expected one is active. `active` is its name."""

    def __init__(self, active: str | None) -> None:
        super().__init__(
            f"someone else was first: {active or 'no version'} is active now, and nothing was changed"
        )
        self.active = active


class StoreUnavailable(ArtifactError):
    """The store could not be read or written."""
