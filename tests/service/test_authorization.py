"""Calls with and without valid tokens and client certificates, over real connections."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from ipaddress import ip_address
from typing import Any

import grpc
import pytest
from cryptography import x509
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from animora_server.auth import AccessList, Role, describe_token, new_token, watch_access_list
from animora_server.errors import InvalidRequest
from animora_server.observability.metrics import Metrics
from animora_server.service import METHODS, SERVICE_NAME, GrpcServer
from animora_server.service.admission import AdmissionController
from animora_server.service.authorization import Authorizer
from animora_server.service.calls import CallHandler
from animora_server.settings import AuthSettings, GrpcSettings
from animora_server.watched_files import WatchedFiles
from tests.support.certificates import Authority
from tests.support.until import HANG_TIMEOUT, until

RANKER, SCRAPER = new_token(), new_token()
ENTRIES = describe_token(RANKER, "feed", [Role.RANK]) + describe_token(SCRAPER, "prometheus", [Role.METRICS])
CERTIFICATES = (
    '[[certificate]]\nname = "feed"\nroles = ["rank"]\n'
    '[[certificate]]\nname = "prometheus"\nroles = ["metrics"]\n'
)
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"


class Served:
    """A server whose methods refuse any message but an empty one."""

    def __init__(
        self,
        server: GrpcServer,
        access: WatchedFiles[AccessList],
        registry: CollectorRegistry,
        admission: AdmissionController,
        options: dict[str, Any],
    ) -> None:
        self.server = server
        self.admission = admission
        self.access = access
        self.registry = registry
        self.options = options

    async def reload(self, file, content):
        """Replaces the file of tokens, and waits until the server has read it."""
        before = self.access.value
        file.write_text(content)
        await until(lambda: self.access.value is not before)

    def count(self, name, **labels):
        return self.registry.get_sample_value(name, labels)

    @asynccontextmanager
    async def channel(self, client=None):
        target, options = f"127.0.0.1:{self.server.port}", [("grpc.use_local_subchannel_pool", 1)]
        if not self.options:
            async with grpc.aio.insecure_channel(target, options=options) as channel:
                yield channel
            return
        pair = (None, None) if client is None else (client.key, client.certificate)
        credentials = grpc.ssl_channel_credentials(self.options["roots"], *pair)
        async with grpc.aio.secure_channel(target, credentials, options=options) as channel:
            yield channel


async def parse(data, call):
    if data:
        raise InvalidRequest("message", "is malformed")
    return b""


@asynccontextmanager
async def serving(file, grpc_options=None, **more):
    settings = GrpcSettings(port=0, drain_delay=0, drain_grace=1, **(grpc_options or {}))
    registry = CollectorRegistry()
    metrics = Metrics(registry, SERVICE_NAME, METHODS)
    handler = CallHandler(AdmissionController(1000, 1000), metrics.calls, default_timeout=60)
    async with AsyncExitStack() as stack:
        access = watch_access_list(AuthSettings(tokens=file))
        assert access is not None
        await stack.enter_async_context(access)
        server = GrpcServer(
            settings, handler, dict.fromkeys(METHODS, parse), Authorizer(access, metrics.auth)
        )
        await stack.enter_async_context(server)
        yield Served(server, access, registry, handler.admission, more)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tokens.toml"
    path.write_text(ENTRIES)
    return path


@pytest.fixture
async def served(file):
    async with serving(file) as one:
        yield one


@pytest.fixture
async def channel(served):
    async with served.channel() as one:
        yield one


@pytest.fixture
def authority():
    return Authority()


@pytest.fixture
async def mutual(file, tmp_path, authority):
    """A server whose clients need a certificate."""
    pair = authority.issue_server()
    contents = {"tls_certificate": pair.certificate, "tls_key": pair.key}
    contents["tls_client_ca"] = authority.certificate
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    file.write_text(ENTRIES + CERTIFICATES)
    options = {name: tmp_path / name for name in contents}
    async with serving(file, options, roots=authority.certificate) as one:
        yield one


def bearer(token):
    return (("authorization", f"Bearer {token}"),)


async def call(channel, data=b"", metadata=(), method="Rank"):
    await channel.unary_unary(f"/{SERVICE_NAME}/{method}")(data, metadata=metadata)


async def failure(channel, *arguments, **options):
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call(channel, *arguments, **options)
    return error.value


def reason(error):
    trailing = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
    assert (status.code, status.message) == (error.code().value[0], error.details())
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "animora"
    assert info.metadata["request_id"] == trailing["x-request-id"]
    return info.reason


@pytest.mark.parametrize("method", METHODS)
async def test_a_token_with_the_role_is_admitted_by_every_method(channel, method):
    await call(channel, metadata=bearer(RANKER), method=method)
    error = await failure(channel, b"malformed", metadata=bearer(RANKER), method=method)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.failure(29)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "metadata",
    [(), bearer(new_token()), bearer(""), (("authorization", RANKER),)],
    ids=["none", "unknown", "empty", "no scheme"],
)
@pytest.mark.parametrize(
    "data", [b"", b"malformed", b"x" * (3 << 20)], ids=["empty", "malformed", "too large"]
)
async def test_a_call_without_a_valid_token_is_refused_before_its_message_is_read(
    served, channel, method, metadata, data
):
    error = await failure(channel, data, metadata=metadata, method=method)
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert error.details() == "a valid bearer token or client certificate is required"
    assert reason(error) == "UNAUTHENTICATED"
    labels = {"grpc_type": "unary", "grpc_service": SERVICE_NAME, "grpc_method": method}
    assert served.count("grpc_server_handled_total", **labels, grpc_code="UNAUTHENTICATED") == 1
    assert served.count("grpc_server_started_total", **labels) == 1
    assert served.count("animora_auth_refusals_total", port="grpc", reason="unauthenticated") == 1
    assert served.count("animora_grpc_calls_total", stage="taken") == 1
    assert served.count("animora_grpc_rejected_calls_total", reason="unreceived") == 0


@pytest.mark.failure(29)
async def test_a_token_without_the_role_is_denied_and_its_name_is_only_logged(served, channel):
    with capture_logs() as lines:
        error = await failure(channel, b"malformed", bearer(SCRAPER))
    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert error.details() == "the role rank is required"
    assert reason(error) == "ROLE_REQUIRED"
    assert "prometheus" not in str(error.trailing_metadata())
    (line,) = lines
    assert (line["caller"], line["role"]) == ("prometheus", "rank")
    assert line["request_id"] == dict(error.trailing_metadata())["x-request-id"]
    assert SCRAPER not in str(line)
    assert served.count("animora_auth_refusals_total", port="grpc", reason="permission_denied") == 1


async def test_a_rotated_token_loses_no_call_and_the_revoked_one_is_refused(served, file, monkeypatch):
    monkeypatch.setattr("animora_server.watched_files.RELOAD_INTERVAL", 0.01)
    tokens = [RANKER]  # the last one is the callers'
    async with served.channel() as channel:

        async def load():
            while True:
                await call(channel, metadata=bearer(tokens[-1]))

        async def refused(token):
            try:
                await call(channel, metadata=bearer(token))
            except grpc.aio.AioRpcError as error:
                return error.code() is grpc.StatusCode.UNAUTHENTICATED
            return False

        async def admitted(token):
            return not await refused(token)

        async with asyncio.TaskGroup() as group:
            loads = [group.create_task(load()) for _ in range(3)]
            for number in range(3):
                old, new = tokens[-1], new_token()
                entry = describe_token(new, f"feed-{number}", [Role.RANK])
                file.write_text(describe_token(old, "old", [Role.RANK]) + entry)
                await until(partial(admitted, new))
                tokens.append(new)
                await call(channel, metadata=bearer(old))
                await asyncio.gather(*(call(channel, metadata=bearer(new)) for _ in range(20)))
                file.write_text(entry)
                await until(partial(refused, old))
            for task in loads:
                task.cancel()


@pytest.mark.parametrize("shown_by", ["token", "certificate"])
async def test_a_call_whose_message_arrives_after_its_caller_is_revoked_is_refused(
    mutual, file, authority, monkeypatch, shown_by
):
    monkeypatch.setattr("animora_server.watched_files.RELOAD_INTERVAL", 0.01)
    metadata = bearer(RANKER) if shown_by == "token" else ()
    async with mutual.channel(authority.issue("feed")) as channel:
        method = channel.stream_unary(f"/{SERVICE_NAME}/Rank")
        kept, revoked = method(metadata=metadata), method(metadata=metadata)
        await until(lambda: mutual.count("animora_grpc_calls_total", stage="taken") == 2)
        await mutual.reload(file, ENTRIES + CERTIFICATES + "# a change that revokes nobody\n")
        await kept.write(b"")
        await kept.done_writing()
        assert await kept == b""
        await mutual.reload(file, describe_token(SCRAPER, "prometheus", [Role.METRICS]))
        await revoked.write(b"")
        await revoked.done_writing()
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await revoked
    assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert mutual.count("animora_auth_refusals_total", port="grpc", reason="unauthenticated") == 1


async def test_an_open_reflection_stream_ends_when_its_caller_is_revoked(served, channel, file, monkeypatch):
    monkeypatch.setattr("animora_server.watched_files.RELOAD_INTERVAL", 0.01)
    request = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
    stream = channel.stream_stream(REFLECTION)(metadata=bearer(RANKER))
    await stream.write(request)
    assert await stream.read()
    await served.reload(file, describe_token(SCRAPER, "prometheus", [Role.METRICS]))
    await stream.write(request)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stream.read()
    assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_health_is_open_and_an_unknown_method_is_still_unimplemented(channel):
    health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert health.status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert (await failure(channel, method="None")).code() is grpc.StatusCode.UNIMPLEMENTED


async def reflected(channel, metadata=()):
    request = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
    stream = channel.stream_stream(REFLECTION)(iter([request]), metadata=metadata)
    return [reflection_pb2.ServerReflectionResponse.FromString(response) async for response in stream]


async def test_reflection_needs_the_role_rank(served, channel):
    (response,) = await reflected(channel, bearer(RANKER))
    assert SERVICE_NAME in [service.name for service in response.list_services_response.service]
    for metadata, code, why in (
        ((), grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"),
        (bearer(SCRAPER), grpc.StatusCode.PERMISSION_DENIED, "ROLE_REQUIRED"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await reflected(channel, metadata)
        assert error.value.code() is code
        assert reason(error.value) == why
    assert served.count("animora_auth_refusals_total", port="grpc", reason="unauthenticated") == 1


async def test_a_client_certificate_has_the_roles_of_its_name(mutual, authority):
    for name, code in (
        ("feed", None),
        ("prometheus", grpc.StatusCode.PERMISSION_DENIED),
        ("stranger", grpc.StatusCode.UNAUTHENTICATED),
    ):
        async with mutual.channel(authority.issue(name)) as channel:
            if code is None:
                await call(channel)
                error = await failure(channel, b"malformed")
                assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
                assert len(await reflected(channel)) == 1
            else:
                error = await failure(channel, b"malformed")
                assert error.code() is code
                reason(error)


@pytest.mark.parametrize(
    ("common_name", "names", "admitted"),
    [
        ("other", [x509.DNSName("other"), x509.UniformResourceIdentifier("feed")], True),
        ("other", [x509.DNSName("feed"), x509.IPAddress(ip_address("10.0.0.0"))], True),
        ("feed", [x509.DNSName("other")], False),  # the common name counts only without other names
        ("f\u0435\u0435d", [], False),  # Cyrillic letters
        ("*", [x509.DNSName("*")], False),
        ("feed\0.example.org", [], False),
        ("other", [x509.DNSName("feed\0.example.org")], False),
        ("other", [x509.UniformResourceIdentifier("feed\0.example.org")], False),
        ("other", [x509.RFC822Name("feed\0@example.org")], False),
    ],
)
async def test_only_whole_names_of_a_certificate_have_roles(mutual, authority, common_name, names, admitted):
    async with mutual.channel(authority.issue(common_name, *names)) as channel:
        if admitted:
            await call(channel)
        else:
            assert (await failure(channel)).code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_token_decides_alone_even_beside_a_valid_certificate(mutual, authority):
    async with mutual.channel(authority.issue("feed")) as channel:
        error = await failure(channel, metadata=bearer(new_token()))
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    async with mutual.channel(authority.issue("stranger")) as channel:
        await call(channel, metadata=bearer(RANKER))


async def test_the_concurrency_limit_learns_how_long_calls_with_a_certificate_wait(
    mutual, authority, monkeypatch
):
    waits: list[float] = []
    monkeypatch.setattr(mutual.admission.limit, "record_wait", waits.append)
    async with mutual.channel(authority.issue("feed")) as channel:
        await channel.unary_unary(f"/{SERVICE_NAME}/Rank")(b"")
    assert len(waits) == 1
    assert waits[0] > 0


async def test_a_message_over_the_limit_is_refused_for_a_client_with_a_certificate_too(mutual, authority):
    async with mutual.channel(authority.issue("feed")) as channel:
        error = await failure(channel, b"x" * (3 << 20))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await call(channel)
    assert mutual.count("animora_grpc_rejected_calls_total", reason="unreceived") == 1


async def test_a_call_without_a_message_gets_a_status(mutual, authority):
    async with mutual.channel(authority.issue("feed")) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await channel.stream_unary(f"/{SERVICE_NAME}/Rank")(iter([]))
        assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_call_whose_message_does_not_arrive_in_time_ends(mutual, authority, monkeypatch):
    monkeypatch.setattr("animora_server.service.calls.MESSAGE_TIMEOUT", 0.05)

    async def never():
        await asyncio.Event().wait()
        yield b""

    async with mutual.channel(authority.issue("feed")) as channel, asyncio.timeout(HANG_TIMEOUT):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await channel.stream_unary(f"/{SERVICE_NAME}/Rank")(never())
        assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert error.value.details() == "the message did not arrive in time"
    assert mutual.count("animora_grpc_rejected_calls_total", reason="unreceived") == 1


async def test_a_refused_caller_cannot_fill_the_admission(served, channel):
    callers = [failure(channel, b"x" * (1 << 20)) for _ in range(50)]
    errors = await asyncio.gather(*callers)
    assert {error.code() for error in errors} == {grpc.StatusCode.UNAUTHENTICATED}
    await call(channel, metadata=bearer(RANKER))
