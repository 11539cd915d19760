"""Encrypted connections, with certificates made for the test by the openssl program."""

import pytest

from animora_client import AsyncRankingClient, RankingClient, Tls, Unavailable


async def test_mutual_tls_authenticates_both_sides(tls_server, certificates):
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
async def test_a_side_without_a_trusted_certificate_is_refused(tls_server, certificates, chain, key, name):
    tls = Tls.from_files(
        certificates / "ca.pem", chain and certificates / chain, key and certificates / key, name
    )
    async with AsyncRankingClient(tls_server.target, timeout=10, tls=tls) as client:
        with pytest.raises(Unavailable):
            await client.rank(7, [1])
    assert tls_server.requests == []


def test_a_certificate_without_its_key_is_refused_before_anything_connects(certificates):
    with pytest.raises(ValueError, match="give both or neither"):
        RankingClient("localhost:1", tls=Tls.from_files(certificate_chain=certificates / "leaf.pem"))


def test_a_private_key_is_never_printed(certificates):
    key = (certificates / "leaf.key").read_bytes()

    assert "PRIVATE" in key.decode()
    assert "PRIVATE" not in repr(Tls(certificate_chain=b"chain", private_key=key))
