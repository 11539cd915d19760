"""Fixtures of the client's tests."""

import socket
import subprocess

import grpc
import pytest

from animora_client import AsyncRankingClient
from tests.client.scripted_server import serving


@pytest.fixture
async def server():
    async with serving() as scripted:
        yield scripted


@pytest.fixture
async def client(server):
    async with AsyncRankingClient(server.target, timeout=10) as opened:
        yield opened


@pytest.fixture
def unused_port():
    """A port without a listener, reserved by SO_REUSEPORT so that only a test's own server can listen."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.fixture
def unused_target(unused_port):
    return f"127.0.0.1:{unused_port}"


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """A folder with an authority (ca), and a certificate and key signed by it (leaf) for ranking.test."""
    folder = tmp_path_factory.mktemp("certificates")
    request = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    authority = "-subj /CN=test -keyout ca.key -out ca.pem"
    leaf = (
        "-subj /CN=ranking.test -addext subjectAltName=DNS:ranking.test"
        " -addext basicConstraints=critical,CA:FALSE -CA ca.pem -CAkey ca.key -keyout leaf.key -out leaf.pem"
    )
    for names in (authority, leaf):
        subprocess.run(f"{request} {names}".split(), cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
async def tls_server(certificates):
    """A server that requires a client certificate."""
    credentials = grpc.ssl_server_credentials(
        [((certificates / "leaf.key").read_bytes(), (certificates / "leaf.pem").read_bytes())],
        root_certificates=(certificates / "ca.pem").read_bytes(),
        require_client_auth=True,
    )
    async with serving(credentials) as scripted:
        yield scripted
