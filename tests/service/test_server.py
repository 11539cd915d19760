"""The gRPC server over a real channel: statuses, limits, health, reflection, drain."""

import asyncio
import gc
import gzip
import json
import logging
import re
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from animora_proto.ranking.v1 import ranking_pb2 as pb
from animora_proto.ranking.v1 import ranking_pb2_grpc
from animora_server.errors import ConfigurationError, InvalidRequest, RankedTimelineGone, TooManyRequests
from animora_server.observability.metrics import Metrics
from animora_server.service import METHODS, SERVICE_NAME, GrpcServer
from animora_server.service.admission import AdmissionController
from animora_server.service.arrivals import MAX_REQUESTED
from animora_server.service.calls import CallHandler
from animora_server.service.server import GRPC_LOGGER, HEALTH_SERVICE_NAME, channel_options
from animora_server.settings import GrpcSettings
from tests.service.unread_streams import unread_streams
from tests.support.until import HANG_TIMEOUT, until

SETTINGS = GrpcSettings(port=0, drain_delay=0, drain_grace=1)


class FakeMethods:
    """The methods of a fake service: Rank waits or fails as set, the other methods return nothing."""

    def __init__(self):
        self.failure: BaseException | None = None
        self.gate: asyncio.Event | None = None
        self.entered = asyncio.Event()
        self.calls = []

    async def rank(self, data, call):
        self.calls.append(call)
        self.entered.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return pb.RankResponse(post_ids=[len(data)]).SerializeToString()

    async def return_nothing(self, data, call):
        return b""

    def by_method(self):
        return {"Rank": self.rank, "BatchRank": self.return_nothing, "GetTimeline": self.return_nothing}


@pytest.fixture
def methods() -> FakeMethods:
    return FakeMethods()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
async def server(methods, registry):
    metrics = Metrics(registry, SERVICE_NAME, METHODS)
    handler = CallHandler(AdmissionController(max_calls=2, max_rows=100), metrics.calls, default_timeout=0.5)
    async with GrpcServer(SETTINGS, handler, methods.by_method()) as server:
        yield server


@pytest.fixture
async def channel(server):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel


@pytest.fixture
def rank(channel):
    """Calls Rank with raw bytes."""
    return channel.unary_unary(f"/{SERVICE_NAME}/Rank")


async def failure(call):
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value


def details(error):
    status = rpc_status.from_call(error)
    assert status is not None
    unpacked = {}
    for detail in status.details:
        kind = detail.type_url.rpartition(".")[2]
        unpacked[kind] = getattr(error_details_pb2, kind).FromString(detail.value)
    return unpacked


async def test_a_call_keeps_its_request_id_or_gets_a_generated_one(rank, methods):
    call = rank(b"", metadata=(("x-request-id", "mine"),))
    await call
    assert dict(await call.trailing_metadata())["x-request-id"] == "mine"
    for invalid in ("x" * 129, ""):
        call = rank(b"", metadata=(("x-request-id", invalid),))
        await call
        generated = dict(await call.trailing_metadata())["x-request-id"]
        assert re.fullmatch(r"[0-9a-f]{12}-[0-9a-f]+", generated)
    assert methods.calls[0].request_id == "mine"


@pytest.mark.parametrize("value", ["line\nbreak", "\x1b[31m", "\xc3\xbc", "\xff"])
async def test_a_request_id_that_cannot_be_sent_back_or_logged_is_replaced(server, methods, value):
    async with unread_streams(server.port, f"/{SERVICE_NAME}/Rank", b"", 1, **{"x-request-id": value}):
        (call,) = methods.calls
    assert re.fullmatch(r"[0-9a-f]{12}-[0-9a-f]+", call.request_id)


async def test_metadata_that_is_not_utf8_is_not_logged(server, caplog):
    async with unread_streams(
        server.port, f"/{SERVICE_NAME}/Rank", b"", 1, authorization="Bearer secret\xff"
    ):
        assert "secret" not in caplog.text


@pytest.mark.failure(10)
async def test_a_call_without_a_deadline_gets_the_default_timeout(rank, methods):
    clock = asyncio.get_running_loop().time
    times = [clock()]
    for own in ({}, {"timeout": HANG_TIMEOUT}):
        await rank(b"", **own)
        times.append(clock())
    default, given = (call.deadline for call in methods.calls)
    assert times[0] + 0.5 <= default <= times[1] + 0.5
    # gRPC rounds what is left of a deadline up.
    assert times[1] + HANG_TIMEOUT - 1 <= given <= times[2] + HANG_TIMEOUT + 1
    assert [call.reserve for call in methods.calls] == [0.1, 0.1]


@pytest.mark.failure(6)
async def test_an_unexpected_error_leaks_nothing_but_the_request_id(rank, methods, caplog):
    methods.failure = RuntimeError("postgresql://user:secret@host/db is broken in /srv/app.py")
    with caplog.at_level(logging.ERROR):
        error = await failure(rank(b"", metadata=(("x-request-id", "mine"),)))
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "mine" in error.details()
    assert not re.search("secret|postgresql|app.py|RuntimeError", str(error) + str(error.trailing_metadata()))
    info = details(error)["ErrorInfo"]
    assert (info.domain, info.reason, info.metadata["request_id"]) == ("animora", "INTERNAL", "mine")


@pytest.mark.failure(6)
async def test_a_call_that_cannot_be_recorded_is_answered_and_logged(registry, methods, monkeypatch):
    metrics = Metrics(registry, SERVICE_NAME, METHODS)
    handler = CallHandler(AdmissionController(max_calls=2, max_rows=100), metrics.calls, default_timeout=60)

    def fail(name: str, code: str) -> None:
        raise RuntimeError("a full disk at /srv/metrics")

    monkeypatch.setattr(metrics.calls, "handled", fail)
    async with (
        GrpcServer(SETTINGS, handler, methods.by_method()) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        rank: Any = channel.unary_unary(f"/{SERVICE_NAME}/Rank")
        with capture_logs() as logs:
            assert pb.RankResponse.FromString(await rank(b"123")).post_ids == [3]
            methods.failure = InvalidRequest("limit", "is -1")
            assert (await failure(rank(b""))).code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [entry["event"] for entry in logs].count("recording a call failed") == 2


@pytest.mark.parametrize(
    ("fault", "code"),
    [(InvalidRequest("limit", "is -1"), "INVALID_ARGUMENT"), (RankedTimelineGone(), "FAILED_PRECONDITION")],
)
async def test_a_callers_error_is_logged_with_the_request_id(rank, methods, fault, code):
    methods.failure = fault
    with capture_logs() as lines:
        await failure(rank(b"", metadata=(("x-request-id", "mine"),)))
        methods.failure = TooManyRequests(0.1)
        await failure(rank(b""))
    (line,) = lines
    assert (line["event"], line["log_level"], line["request_id"]) == (f"Rank: {code}", "info", "mine")
    assert line["error"] == str(fault)


@pytest.mark.failure(7)
async def test_a_cancellation_inside_the_server_is_unavailable_and_not_a_hang(rank, methods):
    methods.failure = asyncio.CancelledError()
    error = await failure(rank(b"", timeout=10))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert details(error)["ErrorInfo"].reason == "INTERRUPTED"


@pytest.mark.failure(8)
async def test_too_many_calls_are_refused_with_a_retry_delay(rank, methods, channel, seen):
    methods.gate = asyncio.Event()
    held = [asyncio.ensure_future(rank(b"", timeout=10)) for _ in range(2)]
    while len(methods.calls) < 2:
        methods.entered.clear()
        await methods.entered.wait()
    seconds = []
    for _ in range(20):
        began = time.monotonic()
        error = await failure(rank(b"", timeout=10))
        seconds.append(time.monotonic() - began)
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details(error)["RetryInfo"].retry_delay.nanos == 100_000_000
    seen.number("refusal, round trip", 1000 * median(seconds), at_most=5, unit="ms")
    health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert health.status == health_pb2.HealthCheckResponse.NOT_SERVING  # health checks pass admission
    methods.gate.set()
    await asyncio.gather(*held)
    await rank(b"")


async def test_calls_that_arrive_while_the_event_loop_is_blocked_wait_for_it(registry, methods):
    metrics = Metrics(registry, SERVICE_NAME, METHODS)
    handler = CallHandler(AdmissionController(max_calls=4096, max_rows=1), metrics.calls, default_timeout=0.5)
    async with GrpcServer(SETTINGS, handler, methods.by_method()) as server:
        await asyncio.sleep(0.1)  # the server has requested its first calls
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            rank: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{SERVICE_NAME}/Rank")
            # The event loop is blocked meanwhile; gRPC's threads send and receive the calls.
            calls = [rank.future(b"", timeout=60) for _ in range(MAX_REQUESTED)]
            codes = await asyncio.to_thread(lambda: {call.code() for call in calls})
    assert codes == {grpc.StatusCode.OK}


async def test_a_reply_to_a_cancelled_call_is_not_logged_as_an_error(server, caplog):
    log = logging.getLogger(GRPC_LOGGER)
    for failure in (grpc.aio.InternalError("Failed execute_batch"), ValueError("a bug")):
        try:
            raise failure
        except Exception:
            log.exception("raised by servicer method")
    assert [record.exc_info[0] for record in caplog.records] == [ValueError]


async def test_a_refusal_by_the_method_keeps_its_retry_delay(rank, methods):
    methods.failure = TooManyRequests(1.5)
    retry = details(await failure(rank(b"")))["RetryInfo"]
    assert (retry.retry_delay.seconds, retry.retry_delay.nanos) == (1, 500_000_000)


@pytest.mark.failure(4)
async def test_a_message_over_the_limit_is_refused_and_the_connection_kept(rank, channel):
    error = await failure(rank(b"x" * (SETTINGS.max_message_bytes + 1)))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await rank(b"x" * SETTINGS.max_message_bytes)
    assert channel.get_state() is grpc.ChannelConnectivity.READY


@pytest.mark.failure(4)
async def test_metadata_over_the_limit_is_refused_and_the_connection_kept(rank, channel):
    error = await failure(rank(b"", metadata=(("big", "x" * (SETTINGS.max_metadata_bytes + 1)),)))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    await rank(b"")


@pytest.mark.failure(5)
async def test_a_compression_bomb_is_unimplemented_before_it_is_inflated(rank, methods):
    error = await failure(rank(b"\0" * (1 << 20), compression=grpc.Compression.Gzip))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert methods.calls == []
    assert len(gzip.compress(b"\0" * (1 << 20))) < 2000


async def test_calls_are_counted_by_their_code(rank, methods, registry):
    await rank(b"")
    methods.failure = RuntimeError()
    await failure(rank(b""))
    labels = {"grpc_type": "unary", "grpc_service": SERVICE_NAME, "grpc_method": "Rank"}
    assert registry.get_sample_value("grpc_server_started_total", labels) == 2
    for code in ("OK", "INTERNAL"):
        assert registry.get_sample_value("grpc_server_handled_total", {**labels, "grpc_code": code}) == 1
    assert registry.get_sample_value("grpc_server_handling_seconds_count", labels) == 2
    assert registry.get_sample_value("animora_calls_in_flight") == 0


async def test_health_reports_readiness_and_liveness_apart(server, channel):
    stub = health_pb2_grpc.HealthStub(channel)

    async def is_serving(name: str) -> bool:
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    assert (await is_serving(""), await is_serving("liveness")) == (False, True)
    await server.set_serving(True)
    assert (await is_serving(""), await is_serving("liveness")) == (True, True)
    await server.set_alive(False)
    await server.set_serving(False)
    assert (await is_serving(""), await is_serving("liveness")) == (False, False)


def test_grpc_accepts_the_name_of_every_channel_option():
    (path,) = Path(grpc.__file__).parent.glob("_cython/cygrpc*.so")
    library = path.read_bytes()
    unknown = [name for name, _ in channel_options(SETTINGS) if name.encode() not in library]
    assert not unknown  # gRPC ignores unknown names


async def test_clients_without_a_call_may_ping_every_ten_seconds():
    options = dict(channel_options(SETTINGS))
    assert options["grpc.keepalive_permit_without_calls"] == 1
    assert options["grpc.http2.min_ping_interval_without_data_ms"] < 10_000


async def test_calls_that_grpc_ends_without_a_handler_are_counted(rank, channel, server, registry, methods):
    def caller(channel: Any, method: str) -> Any:
        return channel.unary_unary(method)

    def rejected(reason):
        return registry.get_sample_value("animora_grpc_rejected_calls_total", {"reason": reason})

    def calls(stage):
        return registry.get_sample_value("animora_grpc_calls_total", {"stage": stage})

    assert (rejected("unreceived"), rejected("unknown_method"), calls("arrived")) == (0, 0, 0)
    await rank(b"")
    zipped = grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", compression=grpc.Compression.Gzip)
    async with zipped:
        for call, code in (
            (rank(b"x" * (3 << 20)), "RESOURCE_EXHAUSTED"),
            (rank(b"", metadata=(("much", "x" * (20 << 10)),)), "RESOURCE_EXHAUSTED"),
            (caller(zipped, f"/{SERVICE_NAME}/Rank")(b"x" * 1000), "UNIMPLEMENTED"),
        ):
            assert (await failure(call)).code().name == code
    assert (rejected("unreceived"), rejected("unknown_method")) == (3, 0)
    for method in (f"/{SERVICE_NAME}/Order", "/another.Service/Rank"):
        assert (await failure(caller(channel, method)(b""))).code() is grpc.StatusCode.UNIMPLEMENTED
    await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    methods.failure = TooManyRequests(0.1)
    await failure(rank(b""))
    assert (rejected("unreceived"), rejected("unknown_method")) == (3, 2)
    assert calls("arrived") == calls("taken") == 8


async def test_calls_that_grpc_sheds_count_as_arrived_and_not_as_taken(registry, methods):
    metrics = Metrics(registry, SERVICE_NAME, METHODS)
    handler = CallHandler(AdmissionController(max_calls=1, max_rows=1), metrics.calls, default_timeout=0.5)
    settings = SETTINGS.model_copy(update={"max_waiting_calls": 1})
    count = MAX_REQUESTED + 50

    def call_all(port: int) -> list[str]:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            rank: Any = channel.unary_unary(f"/{SERVICE_NAME}/Rank")
            calls = [rank.future(b"", timeout=20) for _ in range(count)]
            sent.wait()
            errors = [call.exception() for call in calls]
            return [error.code().name if error else "OK" for error in errors]

    sent = threading.Event()
    async with GrpcServer(settings, handler, methods.by_method()) as server:
        calls = asyncio.get_running_loop().run_in_executor(None, call_all, server.port)
        arrived = partial(registry.get_sample_value, "animora_grpc_calls_total", {"stage": "arrived"})
        while arrived() < count:  # the event loop is blocked meanwhile
            time.sleep(0.001)  # noqa: ASYNC251
        sent.set()
        outcomes = Counter(await calls)
        taken = registry.get_sample_value("animora_grpc_calls_total", {"stage": "taken"})
    assert outcomes["CANCELLED"] == count - taken > 0


async def test_health_answers_while_there_is_no_room_for_calls(registry, methods):
    metrics = Metrics(registry, SERVICE_NAME, METHODS)
    admission = AdmissionController(max_calls=1, max_rows=1)
    handler = CallHandler(admission, metrics.calls, default_timeout=60)
    methods.gate = asyncio.Event()
    settings = SETTINGS.model_copy(update={"max_waiting_calls": 1})
    async with (
        GrpcServer(settings, handler, methods.by_method()) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        rank: Any = channel.unary_unary(f"/{SERVICE_NAME}/Rank")
        first = rank(b"", timeout=60)
        await methods.entered.wait()
        outcomes = await asyncio.gather(*(failure(rank(b"", timeout=60)) for _ in range(200)))
        status = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert status.status == health_pb2.HealthCheckResponse.NOT_SERVING
        methods.gate.set()
        await first
    codes = {error.code().name for error in outcomes}
    assert codes <= {"RESOURCE_EXHAUSTED", "CANCELLED"}
    assert "RESOURCE_EXHAUSTED" in codes


async def test_calls_of_low_priority_make_way_for_others(registry, methods):
    metrics = Metrics(registry, SERVICE_NAME, METHODS)
    handler = CallHandler(AdmissionController(max_calls=4, max_rows=1), metrics.calls, default_timeout=60)
    methods.gate = asyncio.Event()
    low = (("x-animora-priority", "batch"),)
    async with (
        GrpcServer(SETTINGS, handler, methods.by_method()) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        rank: Any = channel.unary_unary(f"/{SERVICE_NAME}/Rank")
        taken = [rank(b"", timeout=60, metadata=low) for _ in range(2)]
        await until(lambda: len(methods.calls) == 2)
        error = await failure(rank(b"", timeout=60, metadata=low))
        assert (error.code().name, "RetryInfo" in details(error)) == ("RESOURCE_EXHAUSTED", True)
        taken += [rank(b"", timeout=60, metadata=(("x-animora-priority", "interactive"),)) for _ in range(2)]
        await until(lambda: len(methods.calls) == 4)
        methods.gate.set()
        await asyncio.gather(*taken)


async def test_a_server_that_has_stopped_keeps_its_counts(registry, methods):
    metrics = Metrics(registry, SERVICE_NAME, METHODS)
    handler = CallHandler(AdmissionController(max_calls=2, max_rows=100), metrics.calls, default_timeout=0.5)
    server = GrpcServer(SETTINGS, handler, methods.by_method())
    async with server, grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        rank: Any = channel.unary_unary(f"/{SERVICE_NAME}/Rank")
        await rank(b"", timeout=HANG_TIMEOUT)
    del server, handler  # as when a worker reports its last metrics
    gc.collect()
    for stage in ("arrived", "taken"):
        assert registry.get_sample_value("animora_grpc_calls_total", {"stage": stage}) == 1


async def test_health_reports_whether_the_server_serves(server, channel):
    stub = health_pb2_grpc.HealthStub(channel)

    async def statuses():
        return [
            (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status
            for name in ("", SERVICE_NAME)
        ]

    assert await statuses() == [health_pb2.HealthCheckResponse.NOT_SERVING] * 2
    await server.set_serving(True)
    assert await statuses() == [health_pb2.HealthCheckResponse.SERVING] * 2
    await server.set_serving(False)
    assert await statuses() == [health_pb2.HealthCheckResponse.NOT_SERVING] * 2


@pytest.mark.failure(26)
async def test_a_drain_reports_not_serving_and_finishes_calls_in_flight(server, rank, channel, methods):
    await server.set_serving(True)
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=SERVICE_NAME))
    updates = aiter(watch)
    assert (await anext(updates)).status == health_pb2.HealthCheckResponse.SERVING
    methods.gate = asyncio.Event()
    running = asyncio.ensure_future(rank(b"", timeout=10))
    await methods.entered.wait()
    draining = asyncio.create_task(server.drain())
    assert (await anext(updates)).status == health_pb2.HealthCheckResponse.NOT_SERVING
    await server.set_serving(True)
    assert not server.serving
    watch.cancel()
    methods.gate.set()
    assert await running
    await draining


async def test_a_health_watch_does_not_delay_a_drain(methods, registry):
    metrics = Metrics(registry, SERVICE_NAME, METHODS)
    handler = CallHandler(AdmissionController(max_calls=2, max_rows=100), metrics.calls, default_timeout=0.5)
    settings = SETTINGS.model_copy(update={"drain_grace": 3600})
    response = health_pb2.HealthCheckResponse
    async with (
        GrpcServer(settings, handler, methods.by_method()) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        await server.set_serving(True)
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        updates = aiter(watch)
        assert (await anext(updates)).status == response.SERVING
        await server.drain()
        assert [update.status async for update in updates] == [response.NOT_SERVING]
        assert await watch.code() is grpc.StatusCode.OK


async def test_health_watches_that_do_not_read_block_no_other_call(server, channel):
    stub, response = health_pb2_grpc.HealthStub(channel), health_pb2.HealthCheckResponse
    request = health_pb2.HealthCheckRequest(service=SERVICE_NAME)
    path = f"/{HEALTH_SERVICE_NAME}/Watch"
    async with (
        asyncio.timeout(HANG_TIMEOUT / 4),
        unread_streams(server.port, path, request.SerializeToString(), 50),
    ):
        updates = aiter(stub.Watch(request))
        assert (await anext(updates)).status == response.NOT_SERVING
        await server.set_serving(True)
        assert (await anext(updates)).status == response.SERVING
        assert (await stub.Check(request)).status == response.SERVING
        await server.drain()
        assert [update.status async for update in updates] == [response.NOT_SERVING]


async def connect_until_refused(port):
    while True:
        with suppress(ConnectionResetError):  # the port was closed meanwhile
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()


@pytest.mark.failure(26)
async def test_leaving_closes_the_port_and_finishes_calls_in_flight(server, rank, methods):
    await server.set_serving(True)
    methods.gate = asyncio.Event()
    running = asyncio.ensure_future(rank(b"", timeout=10))
    await methods.entered.wait()
    leaving = asyncio.create_task(server.leave())
    with pytest.raises(ConnectionRefusedError):
        await connect_until_refused(server.port)
    assert not running.done()
    methods.gate.set()
    assert await running
    await leaving


async def test_a_plain_client_finds_and_calls_the_service_through_reflection(server):
    def discover_and_call():
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            assert SERVICE_NAME in database.get_services()
            method = DescriptorPool(database).FindServiceByName(SERVICE_NAME).FindMethodByName("Rank")
            request = GetMessageClass(method.input_type)(user_id=7, post_ids=[1, 2])
            call: Any = channel.unary_unary(f"/{SERVICE_NAME}/Rank")
            reply = call(request.SerializeToString(), timeout=HANG_TIMEOUT)
            return request, GetMessageClass(method.output_type).FromString(reply)

    request, response = await asyncio.to_thread(discover_and_call)
    assert list(response.post_ids) == [request.ByteSize()]


@pytest.mark.parametrize("protocol", ["grpc-v1", "grpc-v1alpha"])
async def test_buf_finds_and_calls_the_service_through_reflection_of_either_version(server, protocol):
    async def buf(*words: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *(Path(sys.executable).with_name("buf"), "curl", "--http2-prior-knowledge", "--protocol", "grpc"),
            *("--reflect-protocol", protocol, *words),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        return output.decode()

    address = f"http://127.0.0.1:{server.port}"
    services = (await buf("--list-services", address)).split()
    assert {SERVICE_NAME, "grpc.reflection.v1.ServerReflection"} <= set(services)
    assert f"{SERVICE_NAME}/GetTimeline" in await buf("--list-methods", address)
    reply = await buf("--data", '{"userId": "7", "postIds": ["1", "2"]}', f"{address}/{SERVICE_NAME}/Rank")
    assert json.loads(reply) == {"postIds": [str(pb.RankRequest(user_id=7, post_ids=[1, 2]).ByteSize())]}


async def test_the_generated_stub_can_call_the_server(channel):
    assert await ranking_pb2_grpc.RankingServiceStub(channel).BatchRank(pb.BatchRankRequest())


async def test_a_port_that_is_taken_is_an_error_that_names_the_option(server, methods, registry):
    metrics = Metrics(CollectorRegistry(), SERVICE_NAME, METHODS)
    handler = CallHandler(AdmissionController(1, 1), metrics.calls, 0.5)
    taken = GrpcSettings(port=server.port)
    with pytest.raises(ConfigurationError, match=r"grpc\.port"):
        async with GrpcServer(taken, handler, methods.by_method()):
            pass
