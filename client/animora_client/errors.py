"""The client's errors, and the mapping from gRPC status codes to them.

RankingError                    code, message, request_id, reason, retry_after
├── InvalidArgument             a field is wrong: field, violations
├── FailedPrecondition          the server's state forbids it, for example a model that is not resident
│   └── SnapshotGone            the timeline of a page token no longer exists: start over
├── NotFound                    the server has no such version
├── ResourceExhausted           too much in flight: retry after retry_after seconds
│   └── Throttled               not sent, because the server refused most of the latest calls
├── DeadlineExceeded            no answer within the timeout
├── Unavailable                 no server could be reached, or none serves, after all retries
├── Unauthenticated             the client is not authenticated
├── PermissionDenied            the client is not authorised
└── Internal                    a server error, or a reply that breaks the contract
"""

from collections.abc import Mapping
from dataclasses import dataclass

from grpc import StatusCode


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field that is wrong, as a path (`requests[3].post_ids`), and what is wrong with it."""

    field: str
    description: str


@dataclass(frozen=True, slots=True)
class ErrorDetails:
    """The details of an error besides code and message.

    Attributes:
        request_id: The id of the call in the server's log, or empty.
        reason: A stable, machine-readable name, or empty.
        retry_after: Seconds to wait before a retry, or None.
        violations: The invalid fields.
    """

    request_id: str = ""
    reason: str = ""
    retry_after: float | None = None
    violations: tuple[FieldViolation, ...] = ()


class RankingError(Exception):
    """The base class: a call, or a request of a batch, that failed."""

    def __init__(self, message: str, code: StatusCode, details: ErrorDetails = ErrorDetails()) -> None:
        super().__init__(message, code, details)  # all arguments, so that the error can be pickled
        self.message = message
        self.code = code
        self.details = details

    def __str__(self) -> str:
        suffix = f" (request {self.request_id})" if self.request_id else ""
        return f"{self.code.name}: {self.message}{suffix}"

    @property
    def request_id(self) -> str:
        """The id of the call in the server's log; empty if the call never reached a server."""
        return self.details.request_id

    @property
    def reason(self) -> str:
        """A stable, machine-readable name, or empty."""
        return self.details.reason

    @property
    def retry_after(self) -> float | None:
        """Seconds to wait before a retry, or None."""
        return self.details.retry_after


class InvalidArgument(RankingError):
    """A field is wrong; the same request will fail again."""

    @property
    def violations(self) -> tuple[FieldViolation, ...]:
        """All invalid fields."""
        return self.details.violations

    @property
    def field(self) -> str:
        """The first invalid field, or empty."""
        return self.violations[0].field if self.violations else ""


class FailedPrecondition(RankingError):
    """The server's state does not allow the call; `reason` names the state."""


class SnapshotGone(FailedPrecondition):
    """The timeline of a page token no longer exists.

    Start over without a token, and exclude the posts that were shown.
    """


class NotFound(RankingError):
    """What the call names does not exist, such as a version of the model store."""


class ResourceExhausted(RankingError):
    """Too much in flight, or too large a message; `retry_after` is set where waiting helps."""


class Throttled(ResourceExhausted):
    """The client did not send the call, because the server refused most of its latest calls."""


class DeadlineExceeded(RankingError):
    """No answer within the timeout."""


class Unavailable(RankingError):
    """No server could be reached in time, or none serves; all retries failed."""


class Unauthenticated(RankingError):
    """The client is not authenticated."""


class PermissionDenied(RankingError):
    """The client is not authorised."""


class Internal(RankingError):
    """A server error; `code` may be any code without its own class."""


_CLASSES: Mapping[StatusCode, type[RankingError]] = {
    StatusCode.INVALID_ARGUMENT: InvalidArgument,
    StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    StatusCode.NOT_FOUND: NotFound,
    StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    StatusCode.UNAVAILABLE: Unavailable,
    StatusCode.CANCELLED: Unavailable,  # by a server that shuts down
    StatusCode.UNAUTHENTICATED: Unauthenticated,
    StatusCode.PERMISSION_DENIED: PermissionDenied,
}

# Reasons with their own class.
_CLASSES_BY_REASON: Mapping[tuple[StatusCode, str], type[RankingError]] = {
    (StatusCode.FAILED_PRECONDITION, "SNAPSHOT_GONE"): SnapshotGone,
}


def make_error(code: StatusCode, message: str, details: ErrorDetails = ErrorDetails()) -> RankingError:
    """Creates the error for a status code and a reason."""
    by_code = _CLASSES.get(code, Internal)
    return _CLASSES_BY_REASON.get((code, details.reason), by_code)(message, code, details)
