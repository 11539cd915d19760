"""Counts calls that gRPC ends before a handler is called.

gRPC looks up the handler of a call when its headers have arrived, before its message is read. If the message
is then too large or compressed, the metadata too large, or the caller gone, gRPC ends the call without
calling the handler. Calls that gRPC sheds earlier, because too many wait, are visible to gRPC core alone:
channelz counts all calls that arrived.
"""

import json
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from typing import Any

import grpc

from animora_server.observability.instruments import CountCell
from animora_server.observability.metrics import ArrivalMetrics
from animora_server.service.authorization import Authorizer
from animora_server.service.calls import TokenBehavior

cygrpc: Any = import_module("grpc._cython.cygrpc")  # untyped; grpcio-channelz imports it as well


class MethodHandlers(grpc.GenericRpcHandler):
    """The handlers of a service; counts the calls that end before their handler is called.

    It must be registered before all other handlers, so that it sees the calls of all services.

    Args:
        service: The name of the service.
        handlers: The handlers, by method.
        metrics: Counts the calls.
    """

    def __init__(self, service: str, handlers: Mapping[str, Any], metrics: ArrivalMetrics) -> None:
        self._handlers = {f"/{service}/{method}": handler for method, handler in handlers.items()}
        self._metrics = metrics

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Returns the handler of a call; None for a method of another service."""
        self._metrics.taken.inc()
        handler = self._handlers.get(handler_call_details.method)
        return None if handler is None else _ArrivedCall(handler.unary_unary, self._metrics.unreceived)


class AuthorizedMethodHandlers(MethodHandlers):
    """The handlers of a service whose callers need a token or certificate.

    Args:
        service: The name of the service.
        handlers: What handles calls with a valid token, and the handler of other calls, by method.
        authorizer: Checks the token.
        metrics: Counts the calls.
    """

    def __init__(
        self,
        service: str,
        handlers: Mapping[str, tuple[TokenBehavior, Any]],
        authorizer: Authorizer,
        metrics: ArrivalMetrics,
    ) -> None:
        super().__init__(service, handlers, metrics)
        self._authorizer = authorizer

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Returns the handler of a call; None for a method of another service."""
        self._metrics.taken.inc()
        handlers = self._handlers.get(handler_call_details.method)
        if handlers is None:
            return None
        with_token, without_token = handlers
        access = self._authorizer.admitting(handler_call_details.invocation_metadata)
        if access is None:
            return without_token
        return _ArrivedCall(partial(with_token, access), self._metrics.unreceived)


class UnknownMethodCounter(grpc.GenericRpcHandler):
    """Counts calls of unknown methods. It must be registered after all other handlers."""

    def __init__(self, metrics: ArrivalMetrics) -> None:
        self._metrics = metrics

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> None:
        """Returns no handler, so gRPC answers UNIMPLEMENTED."""
        self._metrics.unknown.inc()


class _ArrivedCall:
    """The handler of one call. gRPC drops it when the call ends, whether or not it called the handler."""

    __slots__ = ("_unreceived", "unary_unary")

    request_streaming = response_streaming = False
    unary_stream = stream_unary = stream_stream = None
    response_serializer = None

    def __init__(self, unary_unary: Any, unreceived: CountCell) -> None:
        self.unary_unary = unary_unary
        self._unreceived: CountCell | None = unreceived

    def request_deserializer(self, data: bytes) -> bytes:
        """Returns the message unchanged, and records that it has arrived."""
        self._unreceived = None
        return data

    def __del__(self) -> None:
        if self._unreceived is not None:
            self._unreceived.inc()


class ArrivedCalls:
    """Counts the calls that arrived at a server, including those that gRPC shed. Thread-safe.

    Channelz drops a server that has stopped; the last count stays.

    Args:
        server_id: The id of the server in channelz.
    """

    def __init__(self, server_id: int) -> None:
        self._server_id = server_id
        self._last = 0

    def read(self) -> int:
        """The current count; after the server has stopped, the count of the last call of this method."""
        try:
            found = json.loads(cygrpc.channelz_get_server(self._server_id))
        except ValueError:  # the server has stopped
            return self._last
        self._last = int(found["server"].get("data", {}).get("callsStarted", 0))
        return self._last


def newest_server_id() -> int:
    """The channelz id of the newest server of this process."""
    found, start = 0, 0
    while True:
        page = json.loads(cygrpc.channelz_get_servers(start))
        ids = [int(server["ref"]["serverId"]) for server in page.get("server", ())]
        found = max([found, *ids])
        if page.get("end", True) or not ids:
            return found
        start = found + 1
