"""Certificates, keys and client authorities that are replaced while the server runs."""

import asyncio
from contextlib import asynccontextmanager, suppress
from functools import partial

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from animora_server.errors import ConfigurationError
from animora_server.observability.metrics import Metrics
from animora_server.service import METHODS, SERVICE_NAME, GrpcServer
from animora_server.service.admission import AdmissionController
from animora_server.service.calls import CallHandler
from animora_server.settings import GrpcSettings
from tests.support.certificates import Authority, SecretFolder, served_certificate
from tests.support.until import until


@pytest.fixture(autouse=True)
def _short_interval(monkeypatch):
    monkeypatch.setattr("animora_server.watched_files.RELOAD_INTERVAL", 0.01)


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def secret(tmp_path) -> SecretFolder:
    return SecretFolder(tmp_path)


async def answer(data, call):
    return b""


def serving(secret: SecretFolder, **options) -> GrpcServer:
    settings = GrpcSettings(
        port=0,
        drain_delay=0,
        drain_grace=1,
        tls_certificate=secret.folder / "tls.crt",
        tls_key=secret.folder / "tls.key",
        **options,
    )
    metrics = Metrics(CollectorRegistry(), SERVICE_NAME, METHODS)
    handler = CallHandler(AdmissionController(1000, 1000), metrics.calls, default_timeout=60)
    return GrpcServer(settings, handler, dict.fromkeys(METHODS, answer))


def files(issued, **more):
    return {"tls.crt": issued.certificate, "tls.key": issued.key, **more}


@asynccontextmanager
async def connected(server, roots, issued=None):
    """A method of the server, over a connection of its own."""
    pair = (None, None) if issued is None else (issued.key, issued.certificate)
    async with grpc.aio.secure_channel(
        f"127.0.0.1:{server.port}",
        grpc.ssl_channel_credentials(roots, *pair),
        options=[("grpc.use_local_subchannel_pool", 1)],
    ) as channel:
        yield channel.unary_unary(f"/{SERVICE_NAME}/Rank")


async def accepts(server, roots, issued=None):
    """Whether the server answers a call over a new connection."""
    async with connected(server, roots, issued) as rank:
        try:
            await rank(b"")
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return False
        return True


async def presents(server, certificate):
    return await asyncio.to_thread(served_certificate, server.port) == certificate


async def test_a_renewed_certificate_is_presented_and_no_call_is_lost(secret, authority):
    secret.replace(files(authority.issue_server()))
    async with serving(secret) as server, connected(server, authority.certificate) as rank:
        calls = 0

        def has_passed(aim):
            return calls > aim

        async def load():
            nonlocal calls
            while True:
                await rank(b"")  # over one connection
                assert await accepts(server, authority.certificate)  # over a new one
                calls += 1

        async with asyncio.TaskGroup() as group:
            loads = [group.create_task(load()) for _ in range(3)]
            for _ in range(5):
                renewed = authority.issue_server()
                aim = calls + 3
                secret.replace(files(renewed))
                await until(partial(presents, server, renewed.certificate))
                await until(partial(has_passed, aim))
            for task in loads:
                task.cancel()


@pytest.mark.parametrize("fault", ["another key", "no certificate", "no file", "a curve that gRPC lacks"])
async def test_files_that_cannot_be_used_leave_the_last_good_pair_in_force(secret, authority, fault):
    good, renewed = authority.issue_server(), authority.issue_server()
    broken = {
        "another key": {"tls.crt": renewed.certificate, "tls.key": good.key},
        "no certificate": {"tls.crt": b"", "tls.key": renewed.key},
        "no file": {"tls.crt": renewed.certificate},
        "a curve that gRPC lacks": files(authority.issue_server(ec.SECP256K1)),
    }[fault]
    secret.replace(files(good))
    with capture_logs() as lines:
        async with serving(secret) as server:
            (loop,) = server.loops
            secret.replace(broken)
            await until(lambda: loop.failures["expected"] >= 3)
            assert await presents(server, good.certificate)
            assert await accepts(server, authority.certificate)
            secret.replace(files(renewed))
            await until(lambda: presents(server, renewed.certificate))
    problems = [line for line in lines if line["log_level"] == "warning"]
    assert len(problems) < loop.failures["expected"]
    assert {line["task"] for line in problems} == {"tls-reload"}
    assert "grpc.tls_" in problems[0]["error"]
    assert loop.failures["unexpected"] == 0


async def test_a_certificate_that_grpc_cannot_use_is_refused_at_the_start(secret, authority):
    secret.replace(files(authority.issue_server(ec.SECP256K1)))
    with pytest.raises(ConfigurationError, match=r"^grpc\.tls_certificate: gRPC cannot use .*tls\.crt"):
        serving(secret)


@pytest.mark.parametrize("curve", [ec.SECP256R1, ec.SECP384R1, ec.SECP521R1])
async def test_each_curve_that_the_error_names_can_be_used(secret, authority, curve):
    issued = authority.issue_server(curve)
    secret.replace(files(issued))
    async with serving(secret) as server:
        assert await presents(server, issued.certificate)


@pytest.mark.failure(29)
async def test_clients_need_a_certificate_of_the_client_authority(secret, authority):
    clients, strangers = Authority("clients"), Authority("clients")
    secret.replace(files(authority.issue_server(), **{"ca.crt": clients.certificate}))
    async with serving(secret, tls_client_ca=secret.folder / "ca.crt") as server:
        roots = authority.certificate
        assert await accepts(server, roots, clients.issue("feed"))
        assert not await accepts(server, roots)
        assert not await accepts(server, roots, strangers.issue("feed"))


async def test_a_client_authority_is_replaced_over_a_bundle_of_both_and_no_call_is_lost(secret, authority):
    old, new = Authority("old"), Authority("new")
    roots, pair = authority.certificate, authority.issue_server()
    old_client, new_client = old.issue("feed"), new.issue("feed")
    secret.replace(files(pair, **{"ca.crt": old.certificate}))
    async with serving(secret, tls_client_ca=secret.folder / "ca.crt") as server:
        assert not await accepts(server, roots, new_client)

        async def load():
            while True:
                assert await accepts(server, roots, old_client)

        loading = asyncio.create_task(load())
        secret.replace(files(pair, **{"ca.crt": old.certificate + new.certificate}))
        await until(lambda: accepts(server, roots, new_client))
        loading.cancel()
        with suppress(asyncio.CancelledError):
            await loading
        secret.replace(files(pair, **{"ca.crt": new.certificate}))
        await until(lambda: refuses(server, roots, old_client))
        assert await accepts(server, roots, new_client)


async def refuses(server, roots, issued):
    return not await accepts(server, roots, issued)
