"""The client's one tree of errors, and the one table that leads to it from gRPC's status codes.

RankingError                    code, message, request_id, reason, retry_after
├── InvalidArgument             a field is wrong: field, violations
├── FailedPrecondition          the server's state forbids it, for example a model that is not resident
│   └── SnapshotGone            the list that a page token pins is no longer there: start over without one
├── ResourceExhausted           too much at once: come back after retry_after seconds
├── DeadlineExceeded            no answer within the timeout
├── Unavailable                 no server could be reached, or none that serves, retries included
├── Unauthenticated             the server does not know who calls
├── PermissionDenied            it does, and refuses
└── Internal                    a fault of the server's, or a reply that breaks the contract
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
    """What the server said beside code and message.

    Attributes:
        request_id: Names the call in the server's log; empty where none was given.
        reason: A stable name for programs; empty where none was given.
        retry_after: Seconds to wait before trying again; None where the server did not say.
        violations: The fields at fault.
    """

    request_id: str = ""
    reason: str = ""
    retry_after: float | None = None
    violations: tuple[FieldViolation, ...] = ()


class RankingError(Exception):
    """The root: a call that gave no ranking."""

    def __init__(self, message: str, code: StatusCode, details: ErrorDetails = ErrorDetails()) -> None:
        super().__init__(message, code, details)  # all of them, so that a copy can be unpickled
        self.message = message
        self.code = code
        self.details = details

    def __str__(self) -> str:
        suffix = f" (request {self.request_id})" if self.request_id else ""
        return f"{self.code.name}: {self.message}{suffix}"

    @property
    def request_id(self) -> str:
        """Names the call in the server's log; empty where the call never reached it."""
        return self.details.request_id

    @property
    def reason(self) -> str:
        """A stable name for programs, or empty."""
        return self.details.reason

    @property
    def retry_after(self) -> float | None:
        """Seconds to wait before trying again, where the server said."""
        return self.details.retry_after


class InvalidArgument(RankingError):
    """A field is wrong; the same request will fail again."""

    @property
    def violations(self) -> tuple[FieldViolation, ...]:
        """Every field at fault."""
        return self.details.violations

    @property
    def field(self) -> str:
        """The first field at fault, or empty."""
        return self.violations[0].field if self.violations else ""


class FailedPrecondition(RankingError):
    """The server's state forbids it; `reason` says which."""


class SnapshotGone(FailedPrecondition):
    """The list that a page token pins is no longer there.

    Start over without a token, and exclude what was shown.
    """


class ResourceExhausted(RankingError):
    """Too much in flight, or too large a message; `retry_after` is set where waiting helps."""


class DeadlineExceeded(RankingError):
    """No answer within the timeout."""


class Unavailable(RankingError):
    """No server could be reached in time, or none that serves: the retries are used up."""


class Unauthenticated(RankingError):
    """The server does not know who calls."""


class PermissionDenied(RankingError):
    """The server knows who calls, and refuses."""


class Internal(RankingError):
    """A fault of the server's; `code` may be any that has no class of its own."""


_CLASSES: Mapping[StatusCode, type[RankingError]] = {
    StatusCode.INVALID_ARGUMENT: InvalidArgument,
    StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    StatusCode.UNAVAILABLE: Unavailable,
    StatusCode.CANCELLED: Unavailable,  # by the server: it goes away
    StatusCode.UNAUTHENTICATED: Unauthenticated,
    StatusCode.PERMISSION_DENIED: PermissionDenied,
}

# Where the reason says more than the code.
_CLASSES_BY_REASON: Mapping[tuple[StatusCode, str], type[RankingError]] = {
    (StatusCode.FAILED_PRECONDITION, "SNAPSHOT_GONE"): SnapshotGone,
}


def make_error(code: StatusCode, message: str, details: ErrorDetails = ErrorDetails()) -> RankingError:
    """The error for a status code, and for its reason where that has a class of its own."""
    by_code = _CLASSES.get(code, Internal)
    return _CLASSES_BY_REASON.get((code, details.reason), by_code)(message, code, details)
