"""The server's error tree; `service.status` maps the errors of calls to gRPC status codes.

AnimoraError
├── CallError                     sent to the caller
│   ├── Unauthenticated           the caller has no valid token and no known certificate
│   ├── PermissionDenied          the caller lacks a role
│   ├── InvalidRequest            a field is invalid
│   ├── TooManyRequests           too many calls or candidates are in flight
│   ├── DeadlineExpired           the time that is left is too short for an answer
│   ├── ModelNotResident          the requested version is not loaded
│   ├── RankedTimelineGone        the ranked timeline of a page token is no longer stored
│   ├── CatalogUnavailable        the catalog is not loaded, or its blocks are too old
│   └── ModelServiceError         of the admin port
│       ├── ModelNotFound         the model store has no such version
│       ├── ModelRefused          a version must not serve
│       ├── ActiveChanged         another version is active than the caller expects
│       ├── ActiveNotSigned       ACTIVE has to be signed, and there is no key for it
│       ├── ActivationPending     a version is still being verified or loaded
│       └── ModelStoreUnavailable the model store cannot be read or written
├── ScoringFailed                 the model has no scores; the heuristic answers
│   ├── ModelUnavailable          no model is loaded
│   ├── Overloaded                the queue of the device is full
│   ├── DeadlineUnreachable       the deadline cannot be met, or has passed
│   ├── DeviceFault               the device failed
│   │   └── OutOfDeviceMemory     the batch did not fit
│   └── InvalidScores             a score is not finite
│       └── NetworkFailed         the network raised an error
├── StoreError                    PostgreSQL did not answer, or Redis where it is more than a cache
├── ProtocolError                 a message between a worker and a shared device is malformed
├── GenerationGone                the generation that a run builds is no longer being built
└── ConfigurationError            an option is invalid, or cannot be satisfied
"""


class AnimoraError(Exception):
    """The root of all errors of the server."""


class CallError(AnimoraError):
    """An error for the caller; its text is safe to send."""


class Unauthenticated(CallError):
    """The caller has no valid token and no known certificate."""

    def __init__(self) -> None:
        super().__init__("a valid bearer token or client certificate is required")


class PermissionDenied(CallError):
    """The caller lacks a role.

    Args:
        role: The role.
        caller: The name of the token or certificate; for the log, it is not sent.
    """

    def __init__(self, role: str, caller: str) -> None:
        super().__init__(f"the role {role} is required")
        self.role = role
        self.caller = caller


class InvalidRequest(CallError):
    """A field is invalid.

    Args:
        field: The path of the field.
        description: What is wrong with its value.
    """

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}")
        self.field = field
        self.description = description


class TooManyRequests(CallError):
    """Too many calls or candidates are in flight; retry after `retry_after` seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("too many calls in flight")
        self.retry_after = retry_after


class DeadlineExpired(CallError):
    """The time that is left is too short for an answer."""

    def __init__(self) -> None:
        super().__init__("the deadline leaves no time for an answer")


class ModelNotResident(CallError):
    """The requested version is not loaded."""

    def __init__(self) -> None:
        super().__init__("model_version: that version is not resident; leave it empty for the active one")


class ModelServiceError(CallError):
    """An error of ModelService."""


class ModelNotFound(ModelServiceError):
    """The model store has no such version."""

    def __init__(self, version: str) -> None:
        super().__init__(f"version: the model store holds no version {version}")


class ModelRefused(ModelServiceError):
    """A version must not serve.

    Args:
        version: The version.
        reason: One of the reasons of docs/models.md.
        detail: The details, for people.
        is_active: Whether ACTIVE names the version although this server refuses it.
    """

    def __init__(self, version: str, reason: str, detail: str, *, is_active: bool = False) -> None:
        what = "is active in the store, but this server refuses it" if is_active else "was not activated"
        super().__init__(f"{version} {what}: {reason}: {detail}")
        self.reason = reason


class ActiveChanged(ModelServiceError):
    """Another version is active than the caller expects, or was activated meanwhile."""

    def __init__(self, active: str | None) -> None:
        super().__init__(f"{active or 'no version'} is active now")


class ActiveNotSigned(ModelServiceError):
    """ACTIVE has to be signed, and there is no key for it."""

    def __init__(self) -> None:
        super().__init__("ACTIVE has to be signed: set admin.sign_key of this server, or use animora-train")


class ActivationPending(ModelServiceError):
    """A version is still being verified or loaded."""

    def __init__(self, version: str) -> None:
        super().__init__(f"{version} is still being verified or loaded: the same call waits on")


class ModelStoreUnavailable(ModelServiceError):
    """The model store cannot be read or written now."""

    def __init__(self) -> None:
        super().__init__("the model store cannot be read or written now; the server's log says why")


class RankedTimelineGone(CallError):
    """The ranked timeline of a page token is no longer stored."""

    def __init__(self) -> None:
        super().__init__(
            "page_token: its timeline is gone; start over without a token, and exclude the posts shown so far"
        )


class CatalogUnavailable(CallError):
    """The catalog is not loaded, or its blocks are too old."""


class ScoringFailed(AnimoraError):
    """The model has no scores."""


class ModelUnavailable(ScoringFailed):
    """No model is loaded."""


class Overloaded(ScoringFailed):
    """The queue of the device is full."""


class DeadlineUnreachable(ScoringFailed):
    """The deadline cannot be met, or has passed."""


class DeviceFault(ScoringFailed):
    """The device failed."""


class OutOfDeviceMemory(DeviceFault):
    """The batch did not fit into the device's memory."""


def is_device_fault(error: BaseException) -> bool:
    """Whether the device failed for all work: a batch that did not fit into its memory is no such fault."""
    return isinstance(error, DeviceFault) and not isinstance(error, OutOfDeviceMemory)


class InvalidScores(ScoringFailed):
    """A score is not a finite number."""


class NetworkFailed(InvalidScores):
    """The network of a version raised an error, so there are no scores."""


class StoreError(AnimoraError):
    """PostgreSQL did not answer, or not as the views promise; or Redis, where it is more than a cache."""


class ProtocolError(AnimoraError):
    """A message between a worker and a shared device is malformed."""


class GenerationGone(AnimoraError):
    """The generation that a run builds is no longer being built; its timelines expire unserved."""


class ConfigurationError(AnimoraError):
    """An option is invalid, or cannot be satisfied; the text names the option and holds no secret."""
