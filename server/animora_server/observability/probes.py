"""Metrics and probes over HTTP: /metrics, /livez and /readyz, served by threads."""

import asyncio
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from functools import partial
from http import HTTPStatus
from socket import SHUT_RDWR, SO_REUSEADDR, socket
from socketserver import ThreadingMixIn
from threading import Lock, Thread
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import structlog
from prometheus_client import CollectorRegistry, make_wsgi_app

from animora_server.addresses import bind_all, cannot_listen
from animora_server.auth import AccessList, Role
from animora_server.errors import PermissionDenied, Unauthenticated
from animora_server.observability.metrics import AuthMetrics
from animora_server.settings import HttpSettings
from animora_server.watched_files import WatchedFiles

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = structlog.get_logger(__name__)

# Returns the problem in one line without secrets, or None. Called on the probes' threads.
Check = Callable[[], str | None]

REQUEST_TIMEOUT = 5.0  # seconds that a client may take to send its request or to read the response
MAX_CONNECTIONS = 64  # further ones take the place of those that have waited longest without a request
POLL_INTERVAL = 0.05  # seconds until the server notices a shutdown


class Probes:
    """The HTTP server, an async context manager.

    It runs on threads, so that it responds while the event loop is blocked, which `live` may report.

    Args:
        settings: The section `http`.
        registry: The metrics.
        live: The check of /livez.
        ready: The check of /readyz.
        authorizer: Checks callers of /metrics; None if they need no token. The probes need none.
    """

    def __init__(
        self,
        settings: HttpSettings,
        registry: CollectorRegistry,
        live: Check,
        ready: Check,
        authorizer: "ScrapeAuthorizer | None" = None,
    ) -> None:
        self._settings = settings
        metrics = make_wsgi_app(registry)
        if authorizer is not None:
            metrics = authorizer.protect(metrics)
        self._app = _router({"/metrics": metrics, "/livez": _probe(live), "/readyz": _probe(ready)})
        self._listening: list[tuple[ProbeServer, Thread]] = []  # one for each address of the host

    @property
    def port(self) -> int:
        """The port that it listens on; with `http.port` 0, the one that the system chose."""
        if not self._listening:
            raise RuntimeError("the probes are not being served")
        return self._listening[0][0].server_port

    async def __aenter__(self) -> Self:
        """Listens at all addresses of the host.

        Raises:
            ConfigurationError: An address cannot be bound.
        """
        host, port = self._settings.host, self._settings.port
        with ExitStack() as opened:
            sockets = await asyncio.to_thread(bind_all, "http", host, port, SO_REUSEADDR)
            for bound in sockets:
                opened.enter_context(bound)
            try:
                servers = [ProbeServer(bound, self._app) for bound in sockets]
            except OSError as error:
                raise cannot_listen("http", host, port, error) from error
            opened.pop_all()
        for server in servers:
            thread = Thread(target=server.serve_forever, args=(POLL_INTERVAL,), name="probes", daemon=True)
            self._listening.append((server, thread))
            thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops listening. Does not wait for responses in progress."""
        await asyncio.gather(*(asyncio.to_thread(server.shutdown) for server, _ in self._listening))
        for server, thread in self._listening:
            thread.join()
            server.server_close()


class ScrapeAuthorizer:
    """Admits callers of a page by a bearer token with the role `metrics`.

    Args:
        access: The tokens that are valid now.
        metrics: Counts refused callers.
    """

    def __init__(self, access: WatchedFiles[AccessList], metrics: AuthMetrics) -> None:
        self._access = access
        self._metrics = metrics

    def protect(self, page: "WSGIApplication") -> "WSGIApplication":
        """The page, which responds 401 to unknown callers, and 403 to callers without the role."""

        def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
            peer = environ["REMOTE_ADDR"]
            try:
                self._access.value.require(Role.METRICS, environ.get("HTTP_AUTHORIZATION"))
            except Unauthenticated:
                self._metrics.refused("http", "unauthenticated")
                log.info("HTTP caller is not known", peer=peer)
                challenge = ("WWW-Authenticate", "Bearer")
                return _text(start_response, HTTPStatus.UNAUTHORIZED, "a valid token is required", challenge)
            except PermissionDenied as error:
                self._metrics.refused("http", "permission_denied")
                log.info("HTTP caller lacks a role", peer=peer, caller=error.caller, role=error.role)
                return _text(start_response, HTTPStatus.FORBIDDEN, str(error))
            return page(environ, start_response)

        return app


class _Handler(WSGIRequestHandler):
    """One request per connection, without a log line and with a timeout."""

    timeout = REQUEST_TIMEOUT

    def parse_request(self) -> bool:
        """Parses the request, whose first line has arrived."""
        parsed = super().parse_request()
        cast(ProbeServer, self.server).received(self.connection)
        return parsed

    def log_message(self, format: str, *args: Any) -> None:
        pass


class ProbeServer(ThreadingMixIn, WSGIServer):
    """Serves a WSGI application on a bound socket, with a thread for each connection.

    Of MAX_CONNECTIONS, the one that has waited longest for its request gives way to a new one. So connections
    without a request neither use up threads and descriptors, nor keep probes out.
    """

    daemon_threads = True
    request_queue_size = 128  # backlog; the kernel drops the first packet of further connections

    def __init__(self, bound: socket, app: "WSGIApplication") -> None:
        """Takes over a bound socket. Skips the base class' DNS look-up of the host name."""
        self.address_family = bound.family
        super().__init__(bound.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()  # the base class' socket, which is not bound
        self.socket = bound
        self.server_name, self.server_port = bound.getsockname()[:2]
        self.setup_environ()
        self.set_app(app)
        self._lock = Lock()
        self._open: set[socket] = set()
        self._waiting: dict[socket, None] = {}  # without a request yet, oldest first
        self.server_activate()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serves a connection on a thread, unless there are too many."""
        if self._admit(request):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def _admit(self, connection: socket) -> bool:
        """Takes a place for a connection, if need be of the one that has waited longest for its request."""
        with self._lock:
            if len(self._open) >= MAX_CONNECTIONS:
                oldest = next(iter(self._waiting), None)
                if oldest is None:
                    return False
                del self._waiting[oldest]
                self._open.discard(oldest)
                with suppress(OSError):  # its client has gone
                    oldest.shutdown(SHUT_RDWR)  # its thread ends
            self._open.add(connection)
            self._waiting[connection] = None
        return True

    def received(self, connection: socket) -> None:
        """Records that the request of a connection has arrived."""
        with self._lock:
            self._waiting.pop(connection, None)

    def shutdown_request(self, request: Any) -> None:
        """Closes a connection."""
        with self._lock:
            self._open.discard(request)
            self._waiting.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores clients that disconnect or are too slow; logs other errors."""
        if not isinstance(sys.exception(), OSError):
            log.exception("probe or scrape failed")


def _router(pages: dict[str, "WSGIApplication"]) -> "WSGIApplication":
    def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        page = pages.get(environ["PATH_INFO"])
        if page is None:
            return _text(start_response, HTTPStatus.NOT_FOUND, "no such page")
        if environ["REQUEST_METHOD"] == "GET":
            return _guarded(page, environ, start_response)
        if environ["REQUEST_METHOD"] == "HEAD":
            return _head(partial(_guarded, page), environ, start_response)
        return _text(
            start_response, HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD", ("Allow", "GET, HEAD")
        )

    return app


def _guarded(
    page: "WSGIApplication", environ: "WSGIEnvironment", start_response: "StartResponse"
) -> Iterable[bytes]:
    """Runs a page; on an error logs it and responds with 500. wsgiref would print the traceback to stderr."""
    try:
        return page(environ, start_response)
    except Exception:  # thread boundary
        log.exception("page failed", path=environ["PATH_INFO"])
        return _text(start_response, HTTPStatus.INTERNAL_SERVER_ERROR, "internal error")


def _head(
    page: "WSGIApplication", environ: "WSGIEnvironment", start_response: "StartResponse"
) -> Iterable[bytes]:
    """Responds with the headers of GET, without the body."""
    response: list[Any] = []

    def start(status: str, headers: list[tuple[str, str]], error: Any = None, /) -> Callable[[bytes], object]:
        response[:] = status, headers
        return bytes  # WSGI's legacy `write` callable; these pages return their body

    body = b"".join(page({**environ, "REQUEST_METHOD": "GET"}, start))
    status, headers = response
    start_response(status, [*headers, ("Content-Length", str(len(body)))])
    return []


def _probe(check: Check) -> "WSGIApplication":
    def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        problem = check()
        if problem is None:
            return _text(start_response, HTTPStatus.OK, "ok")
        return _text(start_response, HTTPStatus.SERVICE_UNAVAILABLE, problem)

    return app


def _text(
    start_response: "StartResponse", status: HTTPStatus, line: str, *headers: tuple[str, str]
) -> Iterable[bytes]:
    content_type = ("Content-Type", "text/plain; charset=utf-8")
    start_response(f"{status.value} {status.phrase}", [content_type, *headers])
    return [f"{line}\n".encode()]
