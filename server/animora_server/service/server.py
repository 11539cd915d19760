"""The gRPC server: its port, limits, health and reflection, and how it drains."""

import asyncio
import logging
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import grpc
from grpc_health.v1 import health_pb2

from animora_proto.ranking.v1 import ranking_pb2 as pb
from animora_server.addresses import cannot_listen, require_free
from animora_server.service.calls import CallHandler, UnaryMethod
from animora_server.service.health_service import HealthService
from animora_server.service.reflection import enable_reflection
from animora_server.service.unhandled_calls import ArrivedCalls, Methods, UnknownMethods, newest_server
from animora_server.settings import GrpcSettings
from animora_server.tls import load_identity

SERVICE_NAME: str = pb.DESCRIPTOR.services_by_name["RankingService"].full_name
GRPC_LOGGER = "grpc._cython.cygrpc"
HEALTH_SERVICE_NAME: str = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
METHODS = ("Rank", "BatchRank", "GetTimeline")
# Everything a client may ask health about: the server as a whole, and the service by name.
HEALTH_NAMES = ("", SERVICE_NAME)
# And whether the process is worth keeping, for a liveness probe.
LIVENESS_NAME = "liveness"


class GrpcServer:
    """Listens between `async with`; NOT_SERVING until told, and while draining."""

    def __init__(
        self,
        settings: GrpcSettings,
        handler: CallHandler,
        methods: Mapping[str, UnaryMethod],
    ) -> None:
        self._settings = settings
        logging.getLogger(GRPC_LOGGER).addFilter(is_worth_logging)
        self._health = HealthService()
        self._server = grpc.aio.server(options=channel_options(settings))
        handlers = {method: handler.unary(method, methods[method]) for method in METHODS}
        arrivals = handler.arrivals
        self._arrived = ArrivedCalls(newest_server())
        arrivals.arrived_from(self._arrived.read)
        self._server.add_generic_rpc_handlers((Methods(SERVICE_NAME, handlers, arrivals),))
        self._server.add_generic_rpc_handlers((self._health_handler(),))
        enable_reflection(self._server, (SERVICE_NAME, HEALTH_SERVICE_NAME))
        self._server.add_generic_rpc_handlers((UnknownMethods(arrivals),))
        self._serving = False
        self._alive = True
        self._draining = False
        self.port = 0

    async def __aenter__(self) -> Self:
        """Binds the port and takes calls.

        Raises:
            ConfigurationError: The port is taken, or a TLS file cannot be read.
        """
        self._say()
        host, port = self._settings.host, self._settings.port
        if self._settings.workers == 1 and port:  # workers share it, and whoever started them has checked it
            await asyncio.to_thread(require_free, "grpc", host, port)
        identity = load_identity(self._settings)
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if identity is None:
                self.port = self._server.add_insecure_port(address)
            else:
                credentials = grpc.ssl_server_credentials([(identity.key, identity.certificates)])
                self.port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise cannot_listen("grpc", host, port) from error
        await self._server.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops; calls that still run are given the grace, then cancelled."""
        await self._stop()

    def _health_handler(self) -> grpc.GenericRpcHandler:
        # Not by the generated function: what it registers is found before any generic handler is asked.
        messages = {
            "request_deserializer": health_pb2.HealthCheckRequest.FromString,
            "response_serializer": health_pb2.HealthCheckResponse.SerializeToString,
        }
        handlers = {
            "Check": grpc.unary_unary_rpc_method_handler(self._health.Check, **messages),
            "Watch": grpc.unary_stream_rpc_method_handler(self._health.Watch, **messages),
        }
        return grpc.method_handlers_generic_handler(HEALTH_SERVICE_NAME, handlers)

    @property
    def serving(self) -> bool:
        """What health says."""
        return self._serving

    async def set_serving(self, serving: bool) -> None:
        """Says SERVING or NOT_SERVING from now on; once draining, it stays NOT_SERVING."""
        if serving == self._serving or self._draining:
            return
        self._serving = serving
        self._say()

    async def set_alive(self, alive: bool) -> None:
        """Says whether the process is worth keeping, from now on."""
        if alive != self._alive and not self._draining:
            self._alive = alive
            self._say()

    async def drain(self) -> None:
        """Says NOT_SERVING, lets clients and load balancers notice, then finishes what is in flight."""
        self._serving, self._draining = False, True
        self._health.drain()
        await asyncio.sleep(self._settings.drain_delay)
        await self._stop()

    async def leave(self) -> None:
        """Closes the port and finishes what is in flight: clients connect anew, to others on the port.

        To say NOT_SERVING before would hold them up: they would wait for this process to say otherwise.
        """
        self._serving, self._draining = False, True
        await self._stop()

    async def _stop(self) -> None:
        self._health.end_watches()
        self._arrived.read()
        await self._server.stop(self._settings.drain_grace)

    def _say(self) -> None:
        answers = dict.fromkeys(HEALTH_NAMES, self._serving) | {LIVENESS_NAME: self._alive}
        response = health_pb2.HealthCheckResponse
        for name, yes in answers.items():
            self._health.set(name, response.SERVING if yes else response.NOT_SERVING)


def is_worth_logging(record: logging.LogRecord) -> bool:
    """Not that a reply could not be sent: its caller has gone, and the metrics have counted what it was."""
    return not (record.exc_info and isinstance(record.exc_info[1], grpc.aio.InternalError))


def channel_options(settings: GrpcSettings) -> list[tuple[str, int]]:
    """The limits of connections and messages, as gRPC core takes them."""
    age = int(settings.max_connection_age * 1000)
    waiting = 4 * settings.max_calls_in_flight
    return [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_metadata_size", settings.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", settings.max_metadata_bytes),
        # No compression on requests: a bomb is UNIMPLEMENTED before it is inflated.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        ("grpc.so_reuseport", int(settings.workers > 1)),
        ("grpc.max_connection_age_ms", age),
        ("grpc.max_connection_age_grace_ms", int(settings.drain_grace * 1000)),
        # Calls that wait for the event loop, those that nobody waits for any more among them. By default gRPC
        # turns some away from the 1,001st on, without a status: with 3,000 callers who ask again at once that
        # left time for 350 answers a second, not 4,000.
        ("grpc.server.max_pending_requests", waiting),
        ("grpc.server.max_pending_requests_hard_limit", waiting),
        # Clients may ping every 10 s, also while they have no call. More often than every 5 s is a flood.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]
