"""What every call has in common: an id, a deadline, the gate, metrics, and errors that leak nothing."""

import asyncio
import itertools
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import grpc
import structlog
from google.rpc import status_pb2
from grpc_status import rpc_status

from animora_server.background import was_cancelled
from animora_server.deadlines import LEAST_RESERVE, reserve
from animora_server.errors import CallError
from animora_server.fast_dataclass import fast_dataclass
from animora_server.observability.metrics import CallMetrics
from animora_server.service.admission import AdmissionController
from animora_server.service.status import code_of, internal_status, interrupted_status, to_status

log = structlog.get_logger(__name__)

CALLERS_FAULT = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION)
REQUEST_ID = "x-request-id"
MAX_REQUEST_ID = 128

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[bytes, bytes]


@fast_dataclass
class Call:
    """One call.

    Attributes:
        request_id: Given in metadata, or made.
        deadline: When the caller stops waiting, on the event loop's clock.
        reserve: Seconds before that at which the heuristic answers, if the model has not.
    """

    request_id: str
    deadline: float
    reserve: float = LEAST_RESERVE


# Takes a request and gives its response, both as they are on the wire.
UnaryMethod = Callable[[bytes, Call], Awaitable[bytes]]


class CallHandler:
    """Wraps behaviours into gRPC handlers that take and give bytes."""

    def __init__(self, admission: AdmissionController, metrics: CallMetrics, default_timeout: float) -> None:
        self.arrivals = metrics.arrivals
        self._admission = admission
        self._metrics = metrics
        self._default_timeout = default_timeout
        self._request_ids = _request_ids()
        metrics.in_flight.set_function(lambda: admission.calls)
        metrics.rows_in_flight.set_function(lambda: admission.rows)

    def unary(self, method: str, method_function: UnaryMethod) -> "grpc.RpcMethodHandler[bytes, bytes]":
        """A unary handler. Messages are read and written inside, where their errors are ours."""
        started, handling = self._metrics.started[method], self._metrics.handling[method]

        async def handle(request: bytes, context: "Context") -> bytes:
            began = time.perf_counter()
            started.inc()
            call = self._call(context)
            context.set_trailing_metadata(((REQUEST_ID, call.request_id),))
            code = "CANCELLED"  # an enumeration takes 0.6 us to tell its name
            try:
                with self._admission.call():
                    reply = await method_function(request, call)
                code = "OK"
                return reply
            except asyncio.CancelledError:
                if was_cancelled():  # by the caller or the server's end
                    raise
                # Raised inside: without a status, grpc.aio would leave the caller waiting.
                code, status = "UNAVAILABLE", interrupted_status(call.request_id)
            except Exception as error:  # every error has a status; a bug's is INTERNAL
                failure, status = status_of(error, call)
                code = failure.name
                log_refusal(method, [error], call)
            finally:
                self._metrics.handled(method, code)
                handling.observe(time.perf_counter() - began)
            await _abort(context, status, call.request_id)
            raise AssertionError("abort raises")

        return grpc.unary_unary_rpc_method_handler(handle)

    def _call(self, context: "Context") -> Call:
        remaining = context.time_remaining()
        timeout = self._default_timeout if remaining is None else remaining
        request_id = next(
            (value for key, value in context.invocation_metadata() or () if key == REQUEST_ID), None
        )
        if not isinstance(request_id, str) or not 0 < len(request_id) <= MAX_REQUEST_ID:
            request_id = next(self._request_ids)
        return Call(request_id, asyncio.get_running_loop().time() + timeout, reserve(timeout))


def status_of(error: BaseException, call: Call) -> tuple[grpc.StatusCode, status_pb2.Status]:
    """The code and rich status of whatever a behaviour raised; what is a bug is logged, not sent."""
    if isinstance(error, CallError):
        return code_of(error), to_status(error, call.request_id)
    log.error("a call failed", request_id=call.request_id, exc_info=error)
    return grpc.StatusCode.INTERNAL, internal_status(call.request_id)


def log_refusal(method: str, errors: Sequence[BaseException], call: Call) -> None:
    """Logs what a caller did wrong, so that the request id they were told names it; one line a call.

    Args:
        method: What was called.
        errors: Of the call, or of a batch's requests; others than the caller's are not logged here.
        call: The call.
    """
    wrong = [error for error in errors if isinstance(error, CallError) and code_of(error) in CALLERS_FAULT]
    if wrong:
        log.info(
            f"{method}: {code_of(wrong[0]).name}",  # which is limited apart from other methods' and codes'
            request_id=call.request_id,
            error=str(wrong[0]),
            requests=len(wrong),
        )


def _request_ids() -> Iterator[str]:
    """Ids that are unique across processes and cheap to make."""
    process = secrets.token_hex(6)
    return (f"{process}-{number:x}" for number in itertools.count(1))


async def _abort(context: "Context", status: status_pb2.Status, request_id: str) -> None:
    rich = rpc_status.to_status(status)
    metadata = (*rich.trailing_metadata, (REQUEST_ID, request_id))
    await context.abort(rich.code, rich.details, metadata)
