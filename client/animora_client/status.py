"""Converts failed calls and google.rpc statuses to the client's errors."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import cast

import grpc
from google.protobuf.any_pb2 import Any as PackedMessage
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from animora_client.errors import (
    DeadlineExceeded,
    ErrorDetails,
    FieldViolation,
    RankingError,
    Unavailable,
    make_error,
)

_CODES = {code.value[0]: code for code in grpc.StatusCode}


@contextmanager
def typed_errors(connected: Callable[[], bool]) -> Iterator[None]:
    """Converts an `RpcError` in the block, of a sync or an aio channel, to the client's error.

    Args:
        connected: Whether the call's channel has a connection. Calls wait for a connection until their
            deadline, and gRPC does not report whether the connection or the response was missing.
    """
    try:
        yield
    except grpc.RpcError as error:
        failure = read_failed_call(error)
        if isinstance(failure, DeadlineExceeded) and not failure.request_id and not connected():
            failure = Unavailable("no server could be reached in time", grpc.StatusCode.UNAVAILABLE)
        raise failure from error


def read_failed_call(call: grpc.RpcError) -> RankingError:
    """The error of a failed call."""
    trailing = dict(cast(Iterable[tuple[str, str | bytes]], call.trailing_metadata() or ()))
    request_id = str(trailing.get("x-request-id", ""))
    try:
        status = rpc_status.from_call(call)
    except (DecodeError, ValueError):  # unreadable details, or details that contradict the code
        status = None
    packed = status.details if status is not None else ()
    return make_error(call.code(), call.details() or "", _read_details(packed, request_id))


def read_status(status: status_pb2.Status) -> RankingError:
    """The error of one request of a batch."""
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    return make_error(code, status.message, _read_details(status.details))


def _read_details(packed: Iterable[PackedMessage], request_id: str = "") -> ErrorDetails:
    bad_request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    info = error_details_pb2.ErrorInfo()
    for detail in packed:
        for message in (bad_request, retry, info):
            with suppress(DecodeError):  # an unreadable detail counts as absent
                detail.Unpack(message)  # does nothing for another type
    retry_after = None
    if retry.HasField("retry_delay"):
        retry_after = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    return ErrorDetails(
        request_id=request_id,
        reason=info.reason,
        retry_after=retry_after,
        violations=tuple(
            FieldViolation(violation.field, violation.description)
            for violation in bad_request.field_violations
        ),
    )
