"""The one table from errors to gRPC statuses, with google.rpc details."""

from collections.abc import Sequence

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from animora_server.degradation import REFUSALS
from animora_server.errors import (
    ActivationPending,
    ActiveChanged,
    ActiveNotSigned,
    CallError,
    InvalidRequest,
    ModelNotFound,
    ModelRefused,
    ModelStoreUnavailable,
    PermissionDenied,
    TooManyRequests,
    Unauthenticated,
)

DOMAIN = "animora"
INTERNAL_REASON = "INTERNAL"

# Error → code and the stable reason of ErrorInfo.
STATUSES: dict[type[CallError], tuple[grpc.StatusCode, str]] = {
    Unauthenticated: (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"),
    PermissionDenied: (grpc.StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"),
    InvalidRequest: (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
    **{error: (grpc.StatusCode[refusal.code], refusal.reason) for error, refusal in REFUSALS.items()},
    ModelNotFound: (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND"),
    ModelRefused: (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_REFUSED"),
    ActiveChanged: (grpc.StatusCode.FAILED_PRECONDITION, "ACTIVE_CHANGED"),
    ActiveNotSigned: (grpc.StatusCode.FAILED_PRECONDITION, "ACTIVE_NOT_SIGNED"),
    ActivationPending: (grpc.StatusCode.DEADLINE_EXCEEDED, "ACTIVATION_PENDING"),
    ModelStoreUnavailable: (grpc.StatusCode.UNAVAILABLE, "MODEL_STORE_UNAVAILABLE"),
}


def code_of(error: CallError) -> grpc.StatusCode:
    """The gRPC code of an error."""
    return STATUSES[type(error)][0]


def to_status(error: CallError, request_id: str) -> status_pb2.Status:
    """The rich status of an error, with ErrorInfo, and with BadRequest or RetryInfo where they apply."""
    code, reason = STATUSES[type(error)]
    details: list[Message] = [_error_info(reason, request_id)]
    if isinstance(error, InvalidRequest):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=error.description
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if isinstance(error, TooManyRequests):
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    return _status(code, str(error), details)


def internal_status(request_id: str) -> status_pb2.Status:
    """The status of an unexpected error: its text is only in the log, under the request id."""
    message = f"internal error; the server's log has it under request id {request_id}"
    return _status(grpc.StatusCode.INTERNAL, message, [_error_info(INTERNAL_REASON, request_id)])


def interrupted_status(request_id: str) -> status_pb2.Status:
    """The status of a call that was cancelled inside the server, not by the caller."""
    details = [_error_info("INTERRUPTED", request_id)]
    return _status(grpc.StatusCode.UNAVAILABLE, "the call was interrupted; try again", details)


def _error_info(reason: str, request_id: str) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata={"request_id": request_id})


def _status(code: grpc.StatusCode, message: str, details: Sequence[Message]) -> status_pb2.Status:
    number: int = code.value[0]
    packed = []
    for detail in details:
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    return status_pb2.Status(code=number, message=message, details=packed)
