"""Workers with mutual TLS and tokens: each follows the files by itself, and the parent guards /metrics."""

import asyncio
from contextlib import closing
from functools import partial
from http.client import HTTPConnection

import pytest

from animora_client import AsyncRankingClient, ChannelOptions, Tls, Unauthenticated
from animora_server.auth import Role, describe_token, new_token
from tests.support.certificates import Authority, SecretFolder, served_certificate
from tests.support.feed import TRAINED_USERS
from tests.support.until import HANG_TIMEOUT, until
from tests.workers.callers import OWN_CONNECTION
from tests.workers.group import Group, group

USER = TRAINED_USERS[0]
OWN = ChannelOptions(extra=OWN_CONNECTION)
HANDSHAKES = 16  # one of two workers gets them all once in 30,000 times


async def responds(port: int, status: int, path: str, token: str | None = None) -> bool:
    """Whether a page of the parent has a status."""

    def get() -> int:
        connection = HTTPConnection("127.0.0.1", port, timeout=HANG_TIMEOUT)
        with closing(connection):
            connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
            return connection.getresponse().status

    return await asyncio.to_thread(get) == status


async def both_listen(servers: Group) -> int:
    await servers.logged(lambda event: event["event"] == "listening", 2)
    return await servers.grpc_port()


async def test_a_renewed_certificate_and_a_revoked_token_reach_all_workers(options, tmp_path):
    authority, secret = Authority(), SecretFolder(tmp_path / "secret")
    secret.folder.mkdir()
    tokens, old, new = tmp_path / "tokens.toml", new_token(), new_token()
    scraper = describe_token(new_token(), "unused", [Role.METRICS])
    write = tokens.write_text
    write(scraper + describe_token(old, "old", [Role.RANK]) + describe_token(new, "new", list(Role)))

    def install(pair):
        secret.replace({"crt": pair.certificate, "key": pair.key, "ca": authority.certificate})

    install(authority.issue_server())
    client = authority.issue("feed")
    tls = Tls(authority.certificate, client.certificate, client.key)
    files = {
        "GRPC_TLS_CERTIFICATE": str(secret.folder / "crt"),
        "GRPC_TLS_KEY": str(secret.folder / "key"),
        "GRPC_TLS_CLIENT_CA": str(secret.folder / "ca"),
        "AUTH_TOKENS": str(tokens),
    }
    async with group("--workers", "2", **options, **files) as servers, asyncio.timeout(HANG_TIMEOUT):
        port, http_port = await both_listen(servers), await servers.http_port()

        async def admitted(token) -> bool:
            async with AsyncRankingClient(
                f"127.0.0.1:{port}",
                timeout=HANG_TIMEOUT,
                tls=tls,
                token=token,
                channel=OWN,
            ) as one:
                try:
                    await one.rank(USER, [100])
                except Unauthenticated:
                    return False
            return True

        async def each_admits(token) -> list[bool]:
            return await asyncio.gather(*(admitted(token) for _ in range(HANDSHAKES)))

        assert all(await each_admits(old))
        await until(partial(responds, http_port, 200, "/readyz"))
        for token, expected in ((None, 401), (old, 403), (new, 200)):
            assert await responds(http_port, expected, "/metrics", token)

        renewed = authority.issue_server()
        install(renewed)
        write(scraper + describe_token(new, "new", list(Role)))

        async def all_present_it() -> bool:
            handshakes = (asyncio.to_thread(served_certificate, port) for _ in range(HANDSHAKES))
            return set(await asyncio.gather(*handshakes)) == {renewed.certificate}

        await until(all_present_it)

        async def all_refuse(token) -> bool:
            return not any(await each_admits(token))

        await until(partial(all_refuse, old))
        assert all(await each_admits(new))
        reloads = await servers.logged(lambda event: event["event"] == "files reloaded", 5)
        assert sorted(event["task"] for event in reloads) == ["tls-reload"] * 2 + ["token-reload"] * 3


@pytest.mark.parametrize("workers", [1, 2])
async def test_ports_beyond_loopback_without_credentials_are_one_warning_at_start(options, workers):
    beyond = {"GRPC_HOST": "0.0.0.0", "GRPC_INSECURE": "true"}
    async with group("--workers", str(workers), **options, **beyond) as servers:
        await servers.logged(lambda event: event["event"] == "listening", workers)
        warnings = [event for event in servers.events if event["event"].startswith("auth.tokens is not set")]
    assert [(event["level"], event["ports"]) for event in warnings] == [("warning", ["grpc"])]
