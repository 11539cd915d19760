"""The gRPC server: port, limits, health, reflection, drain."""

import asyncio
import logging
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import grpc
from grpc_health.v1 import health_pb2

from animora_proto.ranking.v1 import ranking_pb2 as pb
from animora_server.addresses import cannot_listen, require_free
from animora_server.background import BackgroundLoop
from animora_server.service.arrivals import (
    ArrivedCalls,
    AuthorizedMethodHandlers,
    Intake,
    MethodHandlers,
    UnknownMethodCounter,
    limited_server,
    newest_server_id,
)
from animora_server.service.authorization import Authorizer
from animora_server.service.calls import CallHandler, UnaryMethod
from animora_server.service.credentials import is_usable, server_credentials
from animora_server.service.health_service import HealthService
from animora_server.service.reflection import enable_reflection
from animora_server.settings import GrpcSettings
from animora_server.settings.section import INT32
from animora_server.thread_priority import lower_io_priority
from animora_server.tls import watch_identity

SERVICE_NAME: str = pb.DESCRIPTOR.services_by_name["RankingService"].full_name
GRPC_LOGGER = "grpc._cython.cygrpc"
HEALTH_SERVICE_NAME: str = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
METHODS = ("Rank", "BatchRank", "GetTimeline")
# Health name for a liveness probe: NOT_SERVING when the process should be restarted.
LIVENESS_NAME = "liveness"


class GrpcServer:
    """Listens in its `async with` block. Health is NOT_SERVING before `set_serving` and while draining.

    Args:
        settings: The section `grpc`.
        handler: Wraps the methods.
        methods: The implementation of each method of the service.
        authorizer: Checks callers of all services but health; None if they need no credentials.
        service: The name of the service.
        section: The section of the options `host` and `port`, for errors and the name of the loop.

    Raises:
        ConfigurationError: A TLS file cannot be read or used.
    """

    def __init__(
        self,
        settings: GrpcSettings,
        handler: CallHandler,
        methods: Mapping[str, UnaryMethod],
        authorizer: Authorizer | None = None,
        *,
        service: str = SERVICE_NAME,
        section: str = "grpc",
    ) -> None:
        self._settings = settings
        self._service = service
        self._section = section
        name = "tls-reload" if section == "grpc" else f"{section}-tls-reload"
        self._identity = watch_identity(settings, is_usable, name)
        for is_needed in (is_not_lost_reply, is_not_undecodable):
            logging.getLogger(GRPC_LOGGER).addFilter(is_needed)
        self._health = HealthService(handler.arrivals.taken.inc)
        self._intake = Intake(handler.admission.room)
        handler.admission.notify(self._intake.update)
        self._server = limited_server(channel_options(settings), self._intake)
        handlers = {name: handler.unary(name, method) for name, method in methods.items()}
        arrivals, record_wait = handler.arrivals, handler.admission.limit.record_wait
        self._arrived = ArrivedCalls(newest_server_id())
        arrivals.arrived_from(self._arrived.read)
        if authorizer is None:
            known: grpc.GenericRpcHandler = MethodHandlers(service, handlers, arrivals, record_wait)
        else:
            authorized = {name: handler.authorized(name, each, authorizer) for name, each in handlers.items()}
            known = AuthorizedMethodHandlers(service, authorized, authorizer, arrivals, record_wait)
        self._server.add_generic_rpc_handlers((known,))
        self._server.add_registered_method_handlers(HEALTH_SERVICE_NAME, self._health_handlers())
        enable_reflection(self._server, (service, HEALTH_SERVICE_NAME), authorizer)
        self._server.add_generic_rpc_handlers((UnknownMethodCounter(arrivals),))
        self._serving = False
        self._alive = True
        self._draining = False
        self.port = 0

    async def __aenter__(self) -> Self:
        """Binds the port and starts to accept calls.

        Raises:
            ConfigurationError: The port is taken.
        """
        self._publish_health()
        await self.check_port()
        host, port = self._settings.host, self._settings.port
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if self._identity is None:
                self.port = self._server.add_insecure_port(address)
            else:
                self.port = self._server.add_secure_port(address, server_credentials(self._identity))
        except RuntimeError as error:
            raise cannot_listen(self._section, host, port) from error
        await self._server.start()
        await self._intake.wait_open()
        lower_io_priority(self._settings.io_niceness)
        for loop in self.loops:
            loop.start()
        return self

    async def check_port(self) -> None:
        """Checks that the port is free, unless workers share it: the supervisor has checked it then.

        Raises:
            ConfigurationError: The port is taken.
        """
        if self._settings.workers == 1 and self._settings.port:
            await asyncio.to_thread(require_free, self._section, self._settings.host, self._settings.port)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops; running calls are cancelled after the grace period."""
        await self._stop()
        for loop in self.loops:
            await loop.stop()

    def _health_handlers(self) -> Mapping[str, "grpc.RpcMethodHandler[Any, Any]"]:
        """Health's handlers. gRPC keeps a queue for each registered method: probes do not wait for room."""
        messages = {
            "request_deserializer": health_pb2.HealthCheckRequest.FromString,
            "response_serializer": health_pb2.HealthCheckResponse.SerializeToString,
        }
        return {
            "Check": grpc.unary_unary_rpc_method_handler(self._health.Check, **messages),
            "Watch": grpc.unary_stream_rpc_method_handler(self._health.Watch, **messages),
        }

    @property
    def loops(self) -> tuple[BackgroundLoop, ...]:
        """The background loops of the server, which run while it listens."""
        return () if self._identity is None else (self._identity.loop,)

    @property
    def serving(self) -> bool:
        """Whether health reports SERVING."""
        return self._serving

    async def set_serving(self, serving: bool) -> None:
        """Sets the health of the server and the service; ignored while draining."""
        if serving == self._serving or self._draining:
            return
        self._serving = serving
        self._publish_health()

    async def set_alive(self, alive: bool) -> None:
        """Sets the health of the liveness name; ignored while draining."""
        if alive != self._alive and not self._draining:
            self._alive = alive
            self._publish_health()

    async def drain(self) -> None:
        """Reports NOT_SERVING, waits until load balancers have noticed, then finishes the calls in flight."""
        self._serving, self._draining = False, True
        self._health.drain()
        await asyncio.sleep(self._settings.drain_delay)
        await self._stop()

    async def leave(self) -> None:
        """Drains one of several workers: closes the port and finishes the calls in flight.

        Clients reconnect to the other workers of the port. It does not report NOT_SERVING before: clients
        would wait for this process to report SERVING again.
        """
        self._serving, self._draining = False, True
        await self._stop()

    async def _stop(self) -> None:
        self._health.end_watches()
        self._arrived.read()
        self._intake.close()
        await self._server.stop(self._settings.drain_grace)
        await self._intake.wait_closed()

    def _publish_health(self) -> None:
        statuses = dict.fromkeys(("", self._service), self._serving) | {LIVENESS_NAME: self._alive}
        response = health_pb2.HealthCheckResponse
        # For clients the server as a whole and the service; for a liveness probe a name of its own.
        for name, is_serving in statuses.items():
            self._health.set(name, response.SERVING if is_serving else response.NOT_SERVING)


def is_not_lost_reply(record: logging.LogRecord) -> bool:
    """Filters out replies that could not be sent as the caller has gone; the metrics have counted them."""
    return not (record.exc_info and isinstance(record.exc_info[1], grpc.aio.InternalError))


def is_not_undecodable(record: logging.LogRecord) -> bool:
    """Filters out metadata that is not UTF-8: the record quotes the value, which may hold a token."""
    return not str(record.msg).startswith("Invalid encoding on")


def channel_options(settings: GrpcSettings) -> list[tuple[str, int]]:
    """The limits of connections and messages, as gRPC core takes them."""
    age = int(settings.max_connection_age * 1000)
    return [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_metadata_size", settings.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", settings.max_metadata_bytes),
        # No compressed requests: a compression bomb is UNIMPLEMENTED before it is inflated.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        ("grpc.so_reuseport", int(settings.workers > 1)),
        # What one connection, and all of them, can make the server hold. The streams also bound what floods
        # cost: of resets, and of headers that refer to entries of HPACK's table.
        ("grpc.max_concurrent_streams", settings.max_concurrent_streams),
        # A stream is freed some turns of the event loop after the client has its reply and may open the next.
        # By default gRPC refuses (REFUSED_STREAM) as soon as open and unfreed streams exceed the bound: a
        # client with 90 calls in flight lost a third of them. Without any bound, resets pile up calls.
        ("grpc.http2.max_deallocating_streams", min(2 * settings.max_concurrent_streams, INT32)),
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ("grpc.server_handshake_timeout_ms", int(settings.handshake_timeout * 1000)),
        ("grpc.max_connection_age_ms", age),
        ("grpc.max_connection_age_grace_ms", int(settings.drain_grace * 1000)),
        # Calls that wait for room, including those whose caller has gone. gRPC sheds further ones.
        ("grpc.server.max_pending_requests", settings.max_waiting_calls),
        ("grpc.server.max_pending_requests_hard_limit", settings.max_waiting_calls),
        # Clients may ping every 10 s, also without a call. More often than every 5 s counts as abuse.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]
