"""Calls that no handler of ours sees: gRPC ends them itself, and says nothing of it.

`Methods` is asked for the handler of every call whose headers have arrived, before its message is read. A
call whose message is then too large or compressed, whose metadata is too large, or whose caller has gone,
ends without its handler. What gRPC sheds before, because too many calls wait, is seen by gRPC core alone:
channelz counts the calls that arrived there.
"""

import json
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import grpc

from animora_server.observability.instruments import CountCell
from animora_server.observability.metrics import ArrivalMetrics

cygrpc: Any = import_module("grpc._cython.cygrpc")  # untyped; grpcio-channelz takes it from there, too


class Methods(grpc.GenericRpcHandler):
    """The methods of a service, and counts of the calls that end before their handler is called.

    Register it before any other handler: it sees the calls of all services.
    """

    def __init__(self, service: str, handlers: Mapping[str, Any], metrics: ArrivalMetrics) -> None:
        self._handlers = {f"/{service}/{method}": handler for method, handler in handlers.items()}
        self._metrics = metrics

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler of a call, or None where another service may have it."""
        self._metrics.taken.inc()
        handler = self._handlers.get(handler_call_details.method)
        return None if handler is None else _ArrivedCall(handler, self._metrics.unreceived)


class UnknownMethods(grpc.GenericRpcHandler):
    """Counts calls of methods that nobody has. Register it after all others."""

    def __init__(self, metrics: ArrivalMetrics) -> None:
        self._metrics = metrics

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> None:
        """No handler: gRPC answers UNIMPLEMENTED."""
        self._metrics.unknown.inc()


class _ArrivedCall:
    """A handler for one call; gRPC lets go of it at the call's end, whether or not it called the handler."""

    __slots__ = ("_unreceived", "unary_unary")

    request_streaming = response_streaming = False
    unary_stream = stream_unary = stream_stream = None
    response_serializer = None

    def __init__(self, handler: Any, unreceived: CountCell) -> None:
        self.unary_unary = handler.unary_unary
        self._unreceived: CountCell | None = unreceived

    def request_deserializer(self, data: bytes) -> bytes:
        """The message, which has arrived."""
        self._unreceived = None
        return data

    def __del__(self) -> None:
        if self._unreceived is not None:
            self._unreceived.inc()


class ArrivedCalls:
    """How many calls have arrived at a server, those that gRPC shed included; from any thread.

    Channelz forgets a server that has stopped, and the last figure stays.

    Args:
        server_id: The server's id in channelz.
    """

    def __init__(self, server_id: int) -> None:
        self._server_id = server_id
        self._last = 0

    def read(self) -> int:
        """The figure as it is now, or as it was read last before the server stopped."""
        try:
            found = json.loads(cygrpc.channelz_get_server(self._server_id))
        except ValueError:  # there is no such server any more
            return self._last
        self._last = int(found["server"].get("data", {}).get("callsStarted", 0))
        return self._last


def newest_server() -> int:
    """The channelz id of the server that was created last in this process."""
    found, start = 0, 0
    while True:
        page = json.loads(cygrpc.channelz_get_servers(start))
        ids = [int(server["ref"]["serverId"]) for server in page.get("server", ())]
        found = max([found, *ids])
        if page.get("end", True) or not ids:
            return found
        start = found + 1
