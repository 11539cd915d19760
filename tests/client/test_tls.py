"""Encrypted connections, with certificates made for the test by the openssl program."""

import subprocess

import grpc
import pytest

from animora_client import AsyncRankingClient, RankingClient, Tls, Unavailable
from tests.client.scripted_server import serving


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
    """A server that asks for a client certificate."""
    credentials = grpc.ssl_server_credentials(
        [((certificates / "leaf.key").read_bytes(), (certificates / "leaf.pem").read_bytes())],
        root_certificates=(certificates / "ca.pem").read_bytes(),
        require_client_auth=True,
    )
    async with serving(credentials) as scripted:
        yield scripted


async def test_both_sides_prove_who_they_are(tls_server, certificates):
    tls = Tls.from_files(
        certificates / "ca.pem", certificates / "leaf.pem", certificates / "leaf.key", "ranking.test"
    )
    async with AsyncRankingClient(tls_server.target, timeout=10, tls=tls) as client:
        assert (await client.rank(7, [1, 2])).post_ids == (2, 1)
        assert await client.health() == "serving"


@pytest.mark.parametrize(
    ("chain", "key", "name"),
    [(None, None, "ranking.test"), ("leaf.pem", "leaf.key", "another.test")],
    ids=["no client certificate", "another name"],
)
async def test_a_side_that_cannot_is_refused(tls_server, certificates, chain, key, name):
    tls = Tls.from_files(
        certificates / "ca.pem", chain and certificates / chain, key and certificates / key, name
    )
    async with AsyncRankingClient(tls_server.target, timeout=10, tls=tls) as client:
        with pytest.raises(Unavailable):
            await client.rank(7, [1])
    assert tls_server.requests == []


def test_a_certificate_without_its_key_is_refused_before_anything_connects(certificates):
    with pytest.raises(ValueError, match="go together"):
        RankingClient("localhost:1", tls=Tls.from_files(certificate_chain=certificates / "leaf.pem"))


def test_a_private_key_is_never_printed(certificates):
    key = (certificates / "leaf.key").read_bytes()

    assert "PRIVATE" in key.decode()
    assert "PRIVATE" not in repr(Tls(certificate_chain=b"chain", private_key=key))
