"""The bench notices a build that loses and one that leaks, and finds nothing in the build as it is."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from animora_proto.ranking.v1.ranking_pb2_grpc import RankingServiceStub
from tests.support.artifacts import tiny_artifact
from tests.support.ledger import Ledger
from tests.support.memory_growth import FLAT, growth_under_load
from tests.support.processes import animora_environment, listening_port
from tests.support.until import HANG_TIMEOUT

NETWORKS = {"v1": tiny_artifact("v1", seed=1)[1]}
AS_IT_IS = ("animora_server",)


@pytest.fixture
def loaded(feed, options):
    """Starts a module as the server, and puts it under the load of a ledger."""

    @asynccontextmanager
    async def loaded(*module: str) -> AsyncIterator[tuple[int, Ledger]]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", *module, "serve"),
            env=animora_environment(**options),
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(HANG_TIMEOUT):
                port = await listening_port(process)
                async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                    ledger = Ledger(feed, NETWORKS)
                    await ledger.until_serving(RankingServiceStub(channel))
                    async with ledger.load(RankingServiceStub(channel)):
                        yield process.pid, ledger
        finally:
            process.kill()
            await process.communicate()

    return loaded


async def test_the_build_as_it_is_has_no_problems_and_flat_memory(loaded):
    async with loaded(*AS_IT_IS) as (pid, ledger):
        await ledger.more(1000)
        grown = await growth_under_load(pid, ledger, 500)
    assert ledger.problems() == []
    assert grown < FLAT


async def test_the_bench_notices_a_build_that_leaks(loaded):
    async with loaded("tests.support.broken_builds", "leaking") as (pid, ledger):
        await ledger.more(100)
        assert await growth_under_load(pid, ledger, 500) > FLAT


async def test_the_bench_notices_a_build_that_loses(loaded):
    async with loaded("tests.support.broken_builds", "losing") as (_, ledger):
        await ledger.more(200)
    problems = ledger.problems()
    assert any("DEADLINE_EXCEEDED" in problem for problem in problems)  # never answered
    assert any("instead of {" in problem for problem in problems)  # the posts of another call
    assert any("post" in problem and "instead of 0." in problem for problem in problems)  # other scores
