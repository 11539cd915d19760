"""Callers whose connections are damaged get an error or the right answer, and never a wrong score."""

import asyncio
from contextlib import AsyncExitStack

import grpc
import pytest

from animora_client import AsyncRankingClient, Ranker
from animora_proto.ranking.v1.ranking_pb2_grpc import RankingServiceStub
from animora_server.app import running
from tests.integration.serving import with_options
from tests.support.artifacts import tiny_artifact
from tests.support.fault_proxy import Connection, FaultProxy, delay, flip, half_close, reset, truncate
from tests.support.feed import TRAINED_USERS
from tests.support.ledger import Ledger
from tests.support.redis_servers import make_certificates
from tests.support.until import HANG_TIMEOUT

NETWORKS = {"v1": tiny_artifact("v1", seed=1)[1]}
FAULTS = {
    "delayed": delay(0.05),
    "reset": reset,
    "truncated": truncate,
    "half-closed": half_close,
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_each_call_over_a_damaged_connection_has_an_outcome_and_no_score_is_wrong(
    fault, feed, application
):
    async with (
        FaultProxy(application.grpc.port) as proxy,
        grpc.aio.insecure_channel(f"127.0.0.1:{proxy.port}") as channel,
    ):
        ledger = Ledger(feed, NETWORKS)
        async with ledger.load(RankingServiceStub(channel)):
            await ledger.more(50)
            proxy.fault = fault
            await ledger.more(50)
            proxy.fault = None
            while ledger.outcomes["OK"] < 100:
                await ledger.more(10)
    assert ledger.problems("UNAVAILABLE") == []


async def test_over_tls_a_flipped_bit_is_never_a_wrong_score(feed, settings, tmp_path_factory):
    certificates = tmp_path_factory.mktemp("certificates")
    make_certificates(certificates)
    files = {"tls_certificate": certificates / "leaf.pem", "tls_key": certificates / "leaf.key"}
    trusted = grpc.ssl_channel_credentials((certificates / "ca.pem").read_bytes())
    async with AsyncExitStack() as stack, asyncio.timeout(HANG_TIMEOUT):
        application = await stack.enter_async_context(running(with_options(settings, grpc=files)))
        await application.listen()
        proxy = await stack.enter_async_context(FaultProxy(application.grpc.port))
        target = f"127.0.0.1:{proxy.port}"
        channel = await stack.enter_async_context(grpc.aio.secure_channel(target, trusted))
        ledger, stub = Ledger(feed, NETWORKS), RankingServiceStub(channel)
        await ledger.until_serving(stub)
        async with ledger.load(stub):
            await ledger.more(50)
            proxy.fault = flip
            await ledger.more(50)
            proxy.fault = None
            while ledger.outcomes["OK"] < 100:
                await ledger.more(10)
    # gRPC ends the calls of a connection that it cannot decrypt with UNKNOWN.
    assert ledger.problems("UNAVAILABLE", "UNKNOWN") == []
    assert ledger.outcomes["UNAVAILABLE"] + ledger.outcomes["UNKNOWN"]


async def test_the_client_library_loses_no_call_over_connections_that_are_reset(application):
    async with FaultProxy(application.grpc.port) as proxy, asyncio.timeout(HANG_TIMEOUT):

        async def reset_once(chunk: bytes, connection: Connection) -> None:
            proxy.fault = None
            await reset(chunk, connection)

        async with AsyncRankingClient(f"127.0.0.1:{proxy.port}") as client:
            for number in range(50):
                if number % 10 == 5:
                    proxy.fault = reset_once
                ranking = await client.rank(TRAINED_USERS[0], [100, 200], timeout=HANG_TIMEOUT)
                assert ranking.ranker is Ranker.NEUCF
        assert proxy.connections == 6
