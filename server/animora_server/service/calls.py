"""What every call shares: request id, deadline, admission, metrics, and errors that leak nothing."""

import asyncio
import itertools
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeGuard, cast

import grpc
import structlog
from google.rpc import status_pb2
from grpc_status import rpc_status

from animora_server.auth import AccessList
from animora_server.background import was_cancelled
from animora_server.errors import CallError, DeadlineExpired
from animora_server.fast_dataclass import fast_dataclass
from animora_server.observability.metrics import CallMetrics
from animora_server.service.admission import AdmissionController
from animora_server.service.authorization import Authorizer
from animora_server.service.status import code_of, internal_status, interrupted_status, to_status
from animora_server.types import reserve

log = structlog.get_logger(__name__)

CALLER_ERROR_CODES = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION)
REQUEST_ID = "x-request-id"
MAX_REQUEST_ID = 128
MESSAGE_TIMEOUT = 20.0  # seconds that a caller with a certificate has to send its message
CODES_WITH_LATENCY = ("OK", "CANCELLED", "DEADLINE_EXCEEDED")  # of calls that tell of the load
PRIORITY, BATCH = "x-animora-priority", "batch"  # metadata of calls of low priority

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[bytes, bytes]


@fast_dataclass
class Call:
    """One call.

    Attributes:
        request_id: From the metadata, or generated.
        deadline: When the caller stops waiting, on the event loop's clock.
        reserve: Seconds before the deadline at which the fallback answers, if the model has not.
        timeout: Seconds that were left when the handler was called.
        is_batch: Whether the call has low priority.
    """

    request_id: str
    deadline: float
    reserve: float
    timeout: float
    is_batch: bool


# A method's implementation: takes the request's bytes and the call, returns the response's bytes.
UnaryMethod = Callable[[bytes, Call], Awaitable[bytes]]
# Handles a call whose token the access list admitted when the headers arrived.
TokenBehavior = Callable[[AccessList, bytes, "Context"], Awaitable[bytes]]


class CallHandler:
    """Wraps unary methods into gRPC handlers that take and return bytes.

    Args:
        admission: Bounds the calls in flight.
        metrics: Counts calls by method and code.
        default_timeout: Seconds that a call without a deadline may take.
    """

    def __init__(self, admission: AdmissionController, metrics: CallMetrics, default_timeout: float) -> None:
        self.arrivals = metrics.arrivals
        self.admission = admission
        self._metrics = metrics
        self._default_timeout = default_timeout
        self._request_ids = _request_ids()
        metrics.watch(admission)

    def unary(self, name: str, method: UnaryMethod) -> "grpc.RpcMethodHandler[bytes, bytes]":
        """The handler of a unary method. The method parses and serialises messages, not gRPC."""
        started, admission = self._metrics.started[name], self.admission

        async def handle(request: bytes, context: "Context") -> bytes:
            started_at = time.perf_counter()
            started.inc()
            call = self._call(context)
            context.set_trailing_metadata(((REQUEST_ID, call.request_id),))
            code = "CANCELLED"  # a string: the name of an enumeration's member takes 0.6 us
            try:
                if call.timeout <= 0:
                    raise DeadlineExpired()
                with admission.admit_call(is_batch=call.is_batch):
                    response = await method(request, call)
                code = "OK"
                return response
            except asyncio.CancelledError:
                if was_cancelled():  # by the caller or by the shutdown
                    raise
                # Raised by the method: without a status, grpc.aio would leave the caller waiting.
                code, status = "UNAVAILABLE", interrupted_status(call.request_id)
            except Exception as error:  # every error has a status; a bug's is INTERNAL
                failure, status = status_of(error, call)
                code = failure.name
                log_caller_errors(name, [error], call)
            finally:
                self._record(name, call, code, time.perf_counter() - started_at)
            await abort_call(context, status, call.request_id)
            raise AssertionError("abort raises")

        return grpc.unary_unary_rpc_method_handler(handle)

    def authorized(
        self, name: str, handler: "grpc.RpcMethodHandler[bytes, bytes]", authorizer: Authorizer
    ) -> tuple[TokenBehavior, "grpc.RpcMethodHandler[bytes, bytes]"]:
        """What handles the calls of a unary method with a valid token, and the handler of other calls.

        The other handler streams, so that gRPC calls it before the message has arrived. If the caller's
        certificate has the role, it reads the message, otherwise it refuses the call. A message may arrive
        long after the headers, so a caller is checked again if the access list has changed since.
        """
        handle = cast("Callable[[bytes, Context], Awaitable[bytes]]", handler.unary_unary)

        async def with_token(access: AccessList, request: bytes, context: "Context") -> bytes:
            if access is not authorizer.access:
                await self._authorize(name, authorizer, context)
            return await handle(request, context)

        async def without_token(requests: AsyncIterator[bytes], context: "Context") -> bytes:
            access = authorizer.access
            await self._authorize(name, authorizer, context)
            waiting_since = time.perf_counter()
            try:
                async with asyncio.timeout(MESSAGE_TIMEOUT):
                    request = await anext(aiter(requests), None)
            except TimeoutError:
                self.arrivals.unreceived.inc()
                await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the message did not arrive in time")
            self.admission.limit.record_wait(time.perf_counter() - waiting_since)
            if request is None:
                self.arrivals.unreceived.inc()
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the call has no message")
            return await with_token(access, request, context)

        return with_token, grpc.stream_unary_rpc_method_handler(without_token)

    async def _authorize(self, name: str, authorizer: Authorizer, context: "Context") -> None:
        call = self._call(context)
        try:
            authorizer.require(context, call.request_id)
        except CallError as error:
            self._metrics.started[name].inc()
            code, status = status_of(error, call)
            self._metrics.handled(name, code.name)
            await abort_call(context, status, call.request_id)

    def _record(self, name: str, call: Call, code: str, seconds: float) -> None:
        """Records a call that its handler has ended, for the metrics and the concurrency limit."""
        try:
            self._metrics.handled(name, code)
            self._metrics.handling[name].observe(seconds)
            if code in CODES_WITH_LATENCY:
                is_answer = code == "OK"
                self.admission.limit.record_call(
                    seconds, call.timeout, is_answer=is_answer, is_batch=call.is_batch
                )
        except Exception:  # a call does not fail because it cannot be recorded
            log.exception("recording a call failed", request_id=call.request_id)

    def _call(self, context: "Context") -> Call:
        remaining = context.time_remaining()
        timeout = self._default_timeout if remaining is None else remaining
        request_id: str | bytes | None = None
        is_batch = False
        for key, value in context.invocation_metadata() or ():
            if key == REQUEST_ID and request_id is None:
                request_id = value
            elif key == PRIORITY:
                is_batch = value == BATCH
        if not _is_request_id(request_id):
            request_id = next(self._request_ids)
        deadline = asyncio.get_running_loop().time() + timeout
        return Call(request_id, deadline, reserve(timeout), timeout, is_batch)


def status_of(error: BaseException, call: Call) -> tuple[grpc.StatusCode, status_pb2.Status]:
    """The code and rich status of an error; the text of an unexpected error is logged, not sent."""
    if isinstance(error, CallError):
        return code_of(error), to_status(error, call.request_id)
    log.error("call failed", request_id=call.request_id, exc_info=error)
    return grpc.StatusCode.INTERNAL, internal_status(call.request_id)


def log_caller_errors(method: str, errors: Sequence[BaseException], call: Call) -> None:
    """Logs the errors that the caller has to fix, under the request id; one line a call.

    Args:
        method: The name of the method.
        errors: The errors of the call, or of the requests of a batch. Errors of the server are skipped.
        call: The call.
    """
    caller_errors = [
        error for error in errors if isinstance(error, CallError) and code_of(error) in CALLER_ERROR_CODES
    ]
    if caller_errors:
        log.info(
            f"{method}: {code_of(caller_errors[0]).name}",  # the log limit counts by event
            request_id=call.request_id,
            error=str(caller_errors[0]),
            requests=len(caller_errors),
        )


def _is_request_id(value: str | bytes | None) -> TypeGuard[str]:
    """Whether gRPC can send the value back, and a line of the log can hold it."""
    if not isinstance(value, str) or not value.isascii() or not value.isprintable():
        return False
    return 0 < len(value) <= MAX_REQUEST_ID


def _request_ids() -> Iterator[str]:
    """Generates ids that are unique across processes."""
    process = secrets.token_hex(6)
    return (f"{process}-{number:x}" for number in itertools.count(1))


async def abort_call(context: "Context", status: status_pb2.Status, request_id: str) -> None:
    """Ends a call with a rich status. Never returns: gRPC's `abort` raises."""
    rich = rpc_status.to_status(status)
    metadata = (*rich.trailing_metadata, (REQUEST_ID, request_id))
    await context.abort(rich.code, rich.details, metadata)
