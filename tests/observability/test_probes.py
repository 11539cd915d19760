import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from threading import Event, Semaphore
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter
from structlog.testing import capture_logs

from animora_server.addresses import bind_all
from animora_server.auth import Role, describe_token, new_token, watch_access_list
from animora_server.errors import ConfigurationError
from animora_server.observability.metrics import AuthMetrics
from animora_server.observability.probes import MAX_CONNECTIONS, Probes, ProbeServer, ScrapeAuthorizer
from animora_server.settings import AuthSettings, HttpSettings
from tests.support.until import HANG_TIMEOUT

ANY_PORT = HttpSettings(port=0)


class Server:
    """A registry and the states that the probes report."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.why_not_live: str | None = None
        self.why_not_ready: str | None = None
        Counter("example", "An example.", registry=self.registry).inc(3)

    def probes(self, settings: HttpSettings = ANY_PORT) -> Probes:
        return Probes(settings, self.registry, lambda: self.why_not_live, lambda: self.why_not_ready)


def fetch(port: int, method: str, path: str, address: str = "127.0.0.1") -> tuple[HTTPResponse, str]:
    connection = HTTPConnection(address, port, timeout=HANG_TIMEOUT)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response, response.read().decode()
    finally:
        connection.close()


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
async def port(server: Server) -> AsyncIterator[int]:
    async with server.probes() as probes:
        yield probes.port


def test_metrics_are_those_of_the_registry(port: int):
    response, body = fetch(port, "GET", "/metrics")
    assert response.status == 200
    assert (response.getheader("Content-Type") or "").startswith("text/plain; version=")
    assert "\nexample_total 3.0\n" in body


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/readyz?verbose"])
def test_a_live_and_ready_server_says_ok(port: int, path: str):
    response, body = fetch(port, "GET", path)
    assert (response.status, body) == (200, "ok\n")


def test_a_server_that_is_not_ready_says_why_and_is_still_alive(server: Server, port: int):
    server.why_not_ready = "the catalog is not loaded yet"
    response, body = fetch(port, "GET", "/readyz")
    assert (response.status, body) == (503, "the catalog is not loaded yet\n")
    assert fetch(port, "GET", "/livez")[0].status == 200


def test_a_server_that_is_not_alive_says_why(server: Server, port: int):
    server.why_not_live = "the event loop stands still"
    response, body = fetch(port, "GET", "/livez")
    assert (response.status, body) == (503, "the event loop stands still\n")


@pytest.mark.parametrize("path", ["/metrics", "/livez", "/readyz"])
def test_head_is_get_without_the_body(server: Server, port: int, path: str):
    server.why_not_ready = "draining"
    got, body = fetch(port, "GET", path)
    head, nothing = fetch(port, "HEAD", path)
    assert nothing == ""
    assert head.status == got.status
    for name in ("Content-Type", "Content-Length"):
        assert head.getheader(name) == got.getheader(name)
    assert head.getheader("Content-Length") == str(len(body))


@pytest.mark.parametrize("path", ["/", "/metrics/", "/favicon.ico", "/livez/../metrics"])
def test_other_pages_are_not_found(port: int, path: str):
    assert fetch(port, "GET", path)[0].status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_not_allowed(port: int, method: str):
    response, _ = fetch(port, method, "/metrics")
    assert (response.status, response.getheader("Allow")) == (405, "GET, HEAD")


def test_a_silent_client_delays_no_other_client(port: int):
    with socket.create_connection(("127.0.0.1", port)):
        assert fetch(port, "GET", "/livez")[0].status == 200


def test_connections_without_a_request_give_way_to_probes(port: int):
    with ExitStack() as opened:
        silent = [
            opened.enter_context(closing(socket.create_connection(("127.0.0.1", port), timeout=HANG_TIMEOUT)))
            for _ in range(2 * MAX_CONNECTIONS)
        ]
        assert fetch(port, "GET", "/livez")[1] == "ok\n"
        for gone in silent[:MAX_CONNECTIONS]:  # before their time is up, and with no reply
            assert gone.recv(1) == b""


def test_a_connection_beyond_the_bound_is_refused_while_all_others_have_a_request(server: Server):
    answering, release = Semaphore(0), Event()

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        answering.release()
        release.wait(HANG_TIMEOUT)
        start_response("200 OK", [])
        return [b"late"]

    (bound,) = bind_all("http", "127.0.0.1", 0, socket.SO_REUSEADDR)
    with ProbeServer(bound, app) as probes, ThreadPoolExecutor(MAX_CONNECTIONS + 1) as threads:
        threads.submit(probes.serve_forever, 0.01)
        replies = [threads.submit(fetch, probes.server_port, "GET", "/slow") for _ in range(MAX_CONNECTIONS)]
        for _ in replies:
            assert answering.acquire(timeout=HANG_TIMEOUT)
        with pytest.raises(ConnectionError):
            fetch(probes.server_port, "GET", "/refused")
        release.set()
        assert {reply.result()[1] for reply in replies} == {"late"}
        assert fetch(probes.server_port, "GET", "/later")[1] == "late"
        probes.shutdown()


def test_a_client_that_does_not_speak_http_affects_no_other_client(port: int):
    with socket.create_connection(("127.0.0.1", port), timeout=HANG_TIMEOUT) as client:
        client.sendall(b"\x00" * 70_000 + b"\r\n\r\n")
        client.shutdown(socket.SHUT_WR)
        while client.recv(4096):
            pass
    assert fetch(port, "GET", "/livez")[0].status == 200


def test_requests_are_not_logged(port: int, capfd: pytest.CaptureFixture[str]):
    fetch(port, "GET", "/livez")
    fetch(port, "GET", "/nowhere")
    assert capfd.readouterr() == ("", "")


async def test_probes_answer_while_the_event_loop_is_busy(port: int):
    # This blocks the loop, which also runs the fixture's server, until the answer is here.
    assert fetch(port, "GET", "/livez")[0].status == 200


async def test_a_port_in_use_is_refused_by_the_name_of_its_option(server: Server, port: int):
    with pytest.raises(ConfigurationError, match=r"http\.port: cannot listen on 127\.0\.0\.1"):
        await server.probes(HttpSettings(port=port)).__aenter__()


async def test_an_invalid_address_is_refused_by_the_name_of_its_option(server: Server):
    with pytest.raises(ConfigurationError, match=r"http\.host"):
        await server.probes(HttpSettings(host="256.256.256.256", port=0)).__aenter__()


async def test_the_port_is_free_after_the_probes_have_stopped(server: Server):
    async with server.probes() as probes:
        port = probes.port
    async with server.probes(HttpSettings(port=port)) as again:
        response, _ = await asyncio.to_thread(fetch, again.port, "GET", "/livez")
        assert response.status == 200


async def test_the_probes_listen_on_ipv6(server: Server):
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    async with server.probes(HttpSettings(host="::1", port=0)) as probes:
        reader, writer = await asyncio.open_connection("::1", probes.port)
        writer.write(b"GET /livez HTTP/1.0\r\n\r\n")
        assert b" 200 OK" in await reader.readline()
        writer.close()
        await writer.wait_closed()


def resolve_to_two_addresses(monkeypatch: pytest.MonkeyPatch, second: str = "127.0.0.2") -> None:
    """Makes `localhost` a name of two addresses."""
    resolve = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *hints: int, **options: int) -> list[Any]:
        addresses = ("127.0.0.1", second) if host == "localhost" else (host,)
        return [found for address in addresses for found in resolve(address, port, *hints, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one address of loopback alone")
async def test_the_probes_listen_at_every_address_of_their_host(
    server: Server, monkeypatch: pytest.MonkeyPatch
):
    resolve_to_two_addresses(monkeypatch)
    async with server.probes(HttpSettings(host="localhost", port=0)) as probes:
        for address in ("127.0.0.1", "127.0.0.2"):
            response, _ = await asyncio.to_thread(fetch, probes.port, "GET", "/livez", address)
            assert response.status == 200


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one address of loopback alone")
async def test_a_port_that_is_taken_at_one_address_of_its_host_is_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch
):
    resolve_to_two_addresses(monkeypatch)
    with socket.create_server(("127.0.0.2", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"http\.port: cannot listen on localhost port {port}"):
            await server.probes(HttpSettings(host="localhost", port=port)).__aenter__()
        socket.create_server(("127.0.0.1", port)).close()


async def test_an_address_that_this_machine_does_not_have_is_skipped(
    server: Server, monkeypatch: pytest.MonkeyPatch
):
    resolve_to_two_addresses(monkeypatch, "192.0.2.1")
    async with server.probes(HttpSettings(host="localhost", port=0)) as probes:
        response, _ = await asyncio.to_thread(fetch, probes.port, "GET", "/livez")
        assert response.status == 200


def test_many_concurrent_connections_fit_into_the_backlog():
    # Nobody accepts here; a connection beyond the backlog would wait for its packet to be sent again.
    with (
        ProbeServer(bind_all("http", "127.0.0.1", 0)[0], lambda environ, start_response: []) as server,
        ExitStack() as connections,
    ):
        for _ in range(64):
            connections.enter_context(
                socket.create_connection(("127.0.0.1", server.server_port), timeout=HANG_TIMEOUT)
            )


async def test_a_failed_page_is_logged_and_hides_the_error(server: Server):
    def fail() -> str | None:
        raise ValueError("postgresql://u:hidden@host")

    with capture_logs() as logs:
        async with Probes(ANY_PORT, server.registry, live=fail, ready=fail) as probes:
            for method, body in (("GET", "internal error\n"), ("HEAD", "")):
                response, text = await asyncio.to_thread(fetch, probes.port, method, "/livez")
                assert (response.status, text) == (500, body)
    assert [entry["event"] for entry in logs] == ["page failed"] * 2


async def test_only_metrics_need_a_token_with_the_role_metrics(server: Server, tmp_path: Path):
    scraper, ranker = new_token(), new_token()
    tokens = describe_token(scraper, "prometheus", [Role.METRICS]) + describe_token(
        ranker, "feed", [Role.RANK]
    )
    (tmp_path / "tokens.toml").write_text(tokens)
    access = watch_access_list(AuthSettings(tokens=tmp_path / "tokens.toml"))
    assert access is not None
    authorizer = ScrapeAuthorizer(access, AuthMetrics(server.registry))

    def get(port: int, path: str, token: str | None = None) -> HTTPResponse:
        connection = HTTPConnection("127.0.0.1", port, timeout=HANG_TIMEOUT)
        with closing(connection):
            connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
            response = connection.getresponse()
            response.read()
            return response

    async with Probes(ANY_PORT, server.registry, lambda: None, lambda: None, authorizer) as probes:
        assert get(probes.port, "/metrics", scraper).status == 200
        for path in ("/livez", "/readyz"):
            assert get(probes.port, path).status == 200
        for refused in (None, new_token()):
            response = get(probes.port, "/metrics", refused)
            assert (response.status, response.getheader("WWW-Authenticate")) == (401, "Bearer")
        assert get(probes.port, "/metrics", ranker).status == 403
        assert fetch(probes.port, "HEAD", "/metrics")[0].status == 401
    count = partial(server.registry.get_sample_value, "animora_auth_refusals_total")
    assert count({"port": "http", "reason": "unauthenticated"}) == 3
    assert count({"port": "http", "reason": "permission_denied"}) == 1
