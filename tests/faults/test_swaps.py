"""Models are swapped under load, again and again: no call fails, no score is wrong, memory stays flat."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import grpc
import numpy as np
import pytest

from animora_proto.ranking.v1 import ranking_pb2 as pb
from animora_proto.ranking.v1.ranking_pb2_grpc import RankingServiceStub
from tests.benchmarks import h2load, open_loop
from tests.benchmarks.h2load import RecordedCall
from tests.benchmarks.http2_connection import ACCEPTED
from tests.benchmarks.open_loop import Phase, Plan
from tests.benchmarks.processes import Server
from tests.support.artifacts import tiny_artifact
from tests.support.feed import TRAINED_USERS, Feed
from tests.support.ledger import Ledger
from tests.support.memory_growth import growth, resident_bytes
from tests.support.processes import listening_port, start
from tests.support.until import HANG_TIMEOUT

MEMORY_GROWTH = 0.01
P99_FACTOR = 1.5
LOAD = 0.8  # of what the server can answer; the ledger's few calls, whose scores are checked, come on top
UNJUDGED_RATE = 50.0  # calls a second
CALLERS = 64  # of the closed loop that measures what the server can answer
CLOSED_SECONDS = 5
RUN_SECONDS = 1.0  # of the load without a swap, before each one, and a multiple of it with one


class OpenLoop:
    """Calls at a constant rate, whether earlier ones have been answered or not.

    Attributes:
        rate: Calls a second.
        answered: How many calls were answered.
        failed: How many were not.
    """

    def __init__(self, port: int, calls: Sequence[RecordedCall], rate: float) -> None:
        self._plan = Plan(
            port=port,
            path=h2load.PATH,
            messages=[call.message for call in calls],
            replies=[call.reply for call in calls],
            phases=(Phase(rate, RUN_SECONDS),),
            connections=8,
            timeout=10.0,
        )
        self._seconds: list[float] = []
        self.rate = rate
        self.answered = self.failed = 0

    @asynccontextmanager
    async def offered(self) -> AsyncIterator[None]:
        """Offers the load within the block, in runs of RUN_SECONDS, at least one."""
        over = asyncio.Event()
        running = asyncio.create_task(self._run(over))
        try:
            yield
        finally:
            over.set()
            await running

    def take_seconds(self) -> list[float]:
        """How long the calls since the last time took, from when each was due."""
        seconds, self._seconds = self._seconds, []
        return seconds

    async def _run(self, over: asyncio.Event) -> None:
        while True:
            outcomes = await open_loop.run(self._plan)
            answered = np.isin(outcomes.outcome, ACCEPTED)
            self._seconds += (outcomes.ended - outcomes.due)[answered].tolist()
            self.answered += int(answered.sum())
            self.failed += int((~answered).sum())
            if over.is_set():
                return


async def load_of(port: int, pid: int, feed: Feed, *, is_judged: bool) -> OpenLoop:
    """An open loop at LOAD of what the server can answer, or at UNJUDGED_RATE."""
    requests = [
        pb.RankRequest(user_id=user, post_ids=feed.post_ids, cache_policy=pb.CACHE_POLICY_BYPASS)
        for user in TRAINED_USERS[:4]
    ]
    server = Server("animora", pid, port)
    calls = await h2load.record_calls(server, requests)
    if not is_judged:
        return OpenLoop(port, calls, UNJUDGED_RATE)
    server.pin()
    closed = await h2load.drive(server, calls, CLOSED_SECONDS, h2load.Load(callers=CALLERS))
    return OpenLoop(port, calls, LOAD * closed.throughput)


@pytest.mark.failure(16)
async def test_swaps_under_load_fail_no_call_and_leave_memory_flat(feed, store, options, seen):
    if seen.judges_times and not h2load.installed():
        pytest.skip("h2load is not installed (Debian's package nghttp2-client has it)")
    swaps = 100 if seen.judges_times else 6
    versions = {f"s{number}": tiny_artifact(f"s{number}", seed=number) for number in range(swaps)}
    networks = {"v1": tiny_artifact("v1", seed=1)[1], **{name: made[1] for name, made in versions.items()}}
    for artifact, _ in versions.values():
        store.publish(artifact)
    ledger, memory = Ledger(feed, networks), []
    usual: list[float] = []  # seconds that calls took, without a swap and with one
    swapping: list[float] = []
    server = await start("serve", **options | {"MODELS_POLL_INTERVAL": "0.1"})
    try:
        async with asyncio.timeout(5 * HANG_TIMEOUT):
            port = await listening_port(server)
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub = RankingServiceStub(channel)
                await ledger.until_serving(stub)
                load = await load_of(port, server.pid, feed, is_judged=seen.judges_times)
                async with ledger.load(stub, workers=1):
                    for name in versions:
                        async with load.offered():
                            await ledger.more(20)
                        usual += load.take_seconds()
                        async with load.offered():
                            # Not on this event loop, whose calls it would delay.
                            await asyncio.to_thread(store.activate, name)
                            await ledger.until_version(name)
                            await ledger.more(20)
                        swapping += load.take_seconds()
                        memory.append(resident_bytes(server.pid))
    finally:
        server.kill()
        await server.communicate()
    assert ledger.problems() == []
    assert load.failed == 0
    assert set(versions) <= set(ledger.versions)
    calls = load.answered + sum(ledger.outcomes.values())
    seen.note(f"{swaps} swaps at {load.rate:.0f} calls/s: {calls} calls, all OK")
    settled = memory[swaps // 4 :]
    seen.number("growth of memory", growth(settled), at_most=MEMORY_GROWTH)
    before, during = (float(np.percentile(seconds, 99)) for seconds in (usual, swapping))
    seen.note(f"p99 {before * 1e3:.0f} ms without swaps, {during * 1e3:.0f} ms with them")
    seen.number("p99 by that without swaps", during / before, at_most=P99_FACTOR)
