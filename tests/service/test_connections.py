"""The bounds of the gRPC port: streams, connections, handshakes, headers."""

import asyncio
import socket
import ssl
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from itertools import islice

import grpc
import pytest
from prometheus_client import CollectorRegistry

from animora_server.observability.metrics import Metrics
from animora_server.service import METHODS, SERVICE_NAME, GrpcServer
from animora_server.service.admission import AdmissionController
from animora_server.service.calls import CallHandler
from animora_server.settings import GrpcSettings
from tests.support import http2
from tests.support.certificates import Authority, SecretFolder
from tests.support.http2 import Http2Connection, http2_connection
from tests.support.until import HANG_TIMEOUT

RANK = f"/{SERVICE_NAME}/Rank"
SILENT = b""


@asynccontextmanager
async def serving(answer=None, **options):
    """A server whose Rank calls `answer`, or returns its request; yields its port."""

    async def echo(data, call):
        return data

    settings = GrpcSettings(port=0, drain_delay=0, drain_grace=1, **options)
    metrics = Metrics(CollectorRegistry(), SERVICE_NAME, METHODS)
    handler = CallHandler(AdmissionController(1000, 1000), metrics.calls, default_timeout=HANG_TIMEOUT)
    async with GrpcServer(settings, handler, dict.fromkeys(METHODS, answer or echo)) as server:
        yield server.port


@asynccontextmanager
async def calling(port):
    """Calls Rank with raw bytes over a connection that is open."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await channel.channel_ready()
        yield partial(channel.unary_unary(RANK), timeout=HANG_TIMEOUT)


def answers(connection: Http2Connection, count: int) -> list[int]:
    """The types of the first frames of `count` different streams."""
    found: dict[int, int] = {}
    for kind, stream, _ in connection.frames():
        if stream:
            found.setdefault(stream, kind)
        if len(found) == count:
            break
    return [found[stream] for stream in sorted(found)]


def replies(connection: Http2Connection, count: int) -> set[int]:
    """The first `count` streams with a reply."""
    found = (stream for kind, stream, _ in connection.frames() if kind == http2.DATA)
    return set(islice(found, count))


async def test_streams_beyond_the_bound_of_a_connection_are_refused_and_others_are_served():
    release = asyncio.Event()

    async def wait(data, call):
        await release.wait()
        return data

    async with serving(wait, max_concurrent_streams=4) as port:
        with http2_connection(port) as connection:
            for stream in range(1, 13, 2):
                connection.send(http2.header_frames(stream, http2.header_block(RANK)))
                connection.send(http2.message_frame(stream, b""))
            refused = await asyncio.to_thread(answers, connection, 2)
            assert refused == [http2.RST_STREAM] * 2
            async with calling(port) as rank:
                call = rank(b"neighbour")
                release.set()
                assert await call == b"neighbour"


async def test_a_client_is_told_how_many_streams_it_may_open_and_holds_back_further_calls():
    running, most = 0, 0

    async def count(data, call):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        return data

    async with serving(count, max_concurrent_streams=10) as port, calling(port) as rank:

        async def call_in_a_row():
            return [await rank(b"") for _ in range(20)]

        await asyncio.gather(*(call_in_a_row() for _ in range(50)))  # none is refused
    assert 1 < most <= 10


async def test_a_connection_beyond_the_bound_is_closed_and_open_ones_are_served():
    async with serving(max_connections=3) as port, calling(port) as rank:
        with ExitStack() as stack:
            for _ in range(2):
                connection = stack.enter_context(http2_connection(port))
                kind, *_ = await asyncio.to_thread(next, connection.frames())
                assert kind == http2.SETTINGS
            with http2_connection(port) as refused:
                await asyncio.to_thread(refused.wait_until_closed)
            assert await rank(b"open") == b"open"
        async with calling(port) as later:  # once others have gone
            assert await later(b"later") == b"later"


@pytest.mark.parametrize(
    "first", [SILENT, http2.PREFACE[:10], http2.PREFACE], ids=["silent", "half a preface", "no settings"]
)
async def test_a_connection_that_does_not_finish_its_handshake_is_closed(first):
    async with serving(handshake_timeout=1) as port, calling(port) as rank:
        with http2_connection(port, first) as connection:
            await asyncio.to_thread(connection.wait_until_closed)
        assert await rank(b"neighbour") == b"neighbour"


@pytest.mark.parametrize("sent", [SILENT, b"\x16\x03\x01\x02\x00\x01"], ids=["silent", "half a hello"])
async def test_a_connection_that_does_not_finish_its_tls_handshake_is_closed(tmp_path, sent):
    authority = Authority()
    issued = authority.issue_server()
    SecretFolder(tmp_path).replace({"tls.crt": issued.certificate, "tls.key": issued.key})
    files = {"tls_certificate": tmp_path / "tls.crt", "tls_key": tmp_path / "tls.key"}
    context = ssl.create_default_context(cadata=authority.certificate.decode())
    context.set_alpn_protocols(["h2"])
    async with serving(handshake_timeout=1, **files) as port:

        def connect_and_wait():
            with socket.create_connection(("127.0.0.1", port), timeout=HANG_TIMEOUT) as plain:
                plain.sendall(sent)
                assert plain.recv(1) == b""
            with http2_connection(port, SILENT, context) as silent:  # after TLS
                silent.wait_until_closed()

        await asyncio.to_thread(connect_and_wait)


async def test_headers_that_grow_in_decoding_beyond_the_bound_are_refused_one_stream_alone():
    call = http2.header_block(RANK)
    reference = bytes([0x80 | http2.FIRST_DYNAMIC_INDEX])  # to the header of the first call
    blocks = {
        1: call + http2.indexed_header("x", "y" * 3000),
        3: call + reference * 1000,
        5: call + reference,
    }
    async with serving(max_metadata_bytes=8192) as port:
        with http2_connection(port) as connection:
            connection.acknowledge_settings()
            for stream, block in blocks.items():
                connection.send(http2.header_frames(stream, block) + http2.message_frame(stream, b""))
            assert await asyncio.to_thread(replies, connection, 2) == {1, 5}
