"""A device that hangs or stalls: what callers get, and what becomes of the process."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from animora_artifact import FolderStore
from animora_proto.ranking.v1 import ranking_pb2 as pb
from animora_proto.ranking.v1.ranking_pb2_grpc import RankingServiceStub
from tests.integration.serving import serving
from tests.support.artifacts import tiny_artifact
from tests.support.faulty_networks import HANGING_USER, HangsForOne, SlowAndHangsForOne, StallsForOne
from tests.support.pages import status_of
from tests.support.processes import start
from tests.support.until import HANG_TIMEOUT, until

POSTS = [100, 200, 300]
OTHER_USER = 7
HANG_SECONDS = 1.0


@pytest.fixture
def models(tmp_path) -> FolderStore:
    return FolderStore(tmp_path / "models")


def activate(models: FolderStore, network: type) -> None:
    """Makes a version with this network active."""
    models.publish(tiny_artifact("w1", seed=1, network_type=network)[0])
    models.activate("w1")


@pytest.fixture
def process(options, tmp_path):
    """Starts a server as a process; yields it with a channel and its HTTP port, once it serves."""

    @asynccontextmanager
    async def process() -> AsyncIterator[tuple[asyncio.subprocess.Process, grpc.aio.Channel, int]]:
        log = tmp_path / "log"
        with log.open("w") as stderr:
            server = await start(
                "serve", stderr=stderr, **options | {"SCORER_HANG_TIMEOUT": str(HANG_SECONDS)}
            )
        try:
            await until(lambda: '"listening"' in log.read_text(), 0.05)
            line = next(line for line in log.read_text().splitlines() if '"listening"' in line)
            grpc_port, http_port = (
                int(line.split(f'"{name}": ')[1].split(",")[0].rstrip("}"))
                for name in ("grpc_port", "http_port")
            )
            async with grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
                await until(lambda: is_ready(http_port), 0.05)
                yield server, channel, http_port
        finally:
            if server.returncode is None:
                server.kill()
            await server.communicate()

    return process


async def is_ready(port: int) -> bool:
    return await status_of(port, "/readyz") == 200


def rank(channel: grpc.aio.Channel, user: int, timeout: float):
    return RankingServiceStub(channel).Rank(pb.RankRequest(user_id=user, post_ids=POSTS), timeout=timeout)


@pytest.mark.failure(14)
async def test_a_device_that_hangs_costs_no_call_and_ends_the_process(models, process, seen):
    activate(models, SlowAndHangsForOne)
    async with asyncio.timeout(HANG_TIMEOUT), process() as (server, channel, _):
        assert (await rank(channel, OTHER_USER, HANG_TIMEOUT)).ranker == pb.RANKER_NEUCF
        watch = aiter(health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()))
        assert (await anext(watch)).status == health_pb2.HealthCheckResponse.SERVING
        # The first hangs in the device; the others are scored before it, or wait behind it.
        calls = [rank(channel, user, HANG_TIMEOUT) for user in (HANGING_USER, OTHER_USER, OTHER_USER)]
        replies = await asyncio.gather(*calls)
        assert (await anext(watch)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await server.wait() == 1
    assert replies[0].ranker == pb.RANKER_HEURISTIC
    reason = pb.DegradedReason.Name(replies[0].degraded_reason)
    assert all(reply.degraded_reason in (0, replies[0].degraded_reason) for reply in replies)
    seen.note(f"a hang: the calls in flight are OK by the heuristic, {reason}; NOT_SERVING; exit status 1")


@pytest.mark.failure(14)
async def test_a_model_that_hangs_on_the_event_loop_fails_liveness(models, process, seen):
    activate(models, HangsForOne)
    async with asyncio.timeout(HANG_TIMEOUT), process() as (_, channel, http_port):
        assert (await rank(channel, OTHER_USER, HANG_TIMEOUT)).ranker == pb.RANKER_NEUCF
        assert await status_of(http_port, "/livez") == 200
        hanging = rank(channel, HANGING_USER, HANG_TIMEOUT)

        async def dead() -> bool:
            return await status_of(http_port, "/livez") == 503

        await until(dead, 0.1)
        assert await status_of(http_port, "/readyz") == 503
        hanging.cancel()
    seen.note("in a short batch, which the event loop executes: /livez and /readyz say 503")


@pytest.mark.failure(9)
async def test_a_stall_of_the_device_falls_back_and_does_not_latch(models, settings, seen):
    activate(models, StallsForOne)
    outcomes: Counter[str] = Counter()
    async with serving(settings) as (_, stub), asyncio.timeout(HANG_TIMEOUT):

        async def rank_in(timeout: float) -> str:
            request = pb.RankRequest(user_id=OTHER_USER, post_ids=POSTS, cache_policy=pb.CACHE_POLICY_BYPASS)
            try:
                reply = await stub.Rank(request, timeout=timeout)
            except grpc.aio.AioRpcError as error:
                return error.code().name
            if reply.ranker == pb.RANKER_NEUCF:
                return "NEUCF"
            return pb.DegradedReason.Name(reply.degraded_reason)

        stalling = stub.Rank(pb.RankRequest(user_id=HANGING_USER, post_ids=POSTS), timeout=HANG_TIMEOUT)
        waiting = asyncio.create_task(asyncio.wait_for(stalling, HANG_TIMEOUT))
        while not waiting.done():
            outcomes[await rank_in(0.2)] += 1
        assert (await waiting).ranker == pb.RANKER_NEUCF
        refused = 0
        while await rank_in(5.0) != "NEUCF":
            refused += 1
    assert outcomes.keys() <= {"NEUCF", "DEGRADED_REASON_DEADLINE", "DEADLINE_EXCEEDED"}
    during = ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
    seen.note(f"during a stall: {during}; after it {refused} calls were refused before one was scored")
