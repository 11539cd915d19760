"""What may fail in a device process, as names that can be sent, and what they are raised as again."""

from animora_artifact import ArtifactRejected, StoreUnavailable, VersionNotFound
from animora_artifact.errors import RejectionReason
from animora_server.errors import (
    DeadlineUnreachable,
    DeviceFault,
    InvalidScores,
    OutOfDeviceMemory,
    Overloaded,
)

_BY_NAME: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (
        DeviceFault,
        OutOfDeviceMemory,
        InvalidScores,
        Overloaded,
        DeadlineUnreachable,
        StoreUnavailable,
        VersionNotFound,
    )
}


def encode_error(error: Exception) -> tuple[str, str]:
    """A failure's name, and what it says."""
    if isinstance(error, ArtifactRejected):
        return error.reason.value, error.detail
    return type(error).__name__, str(error)


def decode_error(name: str, said: str) -> Exception:
    """The failure; one of no name that is expected is the fault of the work, as it would be here."""
    if name in RejectionReason.__members__.values():
        return ArtifactRejected(RejectionReason(name), said)
    kind = _BY_NAME.get(name)
    return RuntimeError(f"{name}: {said}") if kind is None else kind(said)
