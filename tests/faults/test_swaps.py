"""Models are swapped under load, again and again: no call fails, no score is wrong, memory stays flat."""

import asyncio

import grpc
import pytest

from animora_proto.ranking.v1.ranking_pb2_grpc import RankingServiceStub
from tests.support.artifacts import tiny_artifact
from tests.support.ledger import Ledger
from tests.support.memory_growth import growth, resident_bytes
from tests.support.processes import listening_port, start
from tests.support.until import HANG_TIMEOUT

MEMORY_GROWTH = 0.02
P99_FACTOR = 1.5


def p99(seconds: list[float]) -> float:
    return sorted(seconds)[len(seconds) * 99 // 100]


@pytest.mark.failure(16)
async def test_swaps_under_load_fail_no_call_and_leave_memory_flat(feed, store, options, seen):
    swaps = 100 if seen.judges_times else 6
    versions = {f"s{number}": tiny_artifact(f"s{number}", seed=number) for number in range(swaps)}
    networks = {"v1": tiny_artifact("v1", seed=1)[1], **{name: made[1] for name, made in versions.items()}}
    for artifact, _ in versions.values():
        store.publish(artifact)
    ledger, memory = Ledger(feed, networks), []
    server = await start("serve", **options | {"MODELS_POLL_INTERVAL": "0.1"})
    try:
        async with asyncio.timeout(3 * HANG_TIMEOUT):
            port = await listening_port(server)
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub = RankingServiceStub(channel)
                await ledger.until_serving(stub)
                async with ledger.load(stub, workers=4):
                    await ledger.more(1000 if seen.judges_times else 50)
                    before = len(ledger.seconds)
                    for name in versions:
                        # Not on this event loop, whose calls it would delay.
                        await asyncio.to_thread(store.activate, name)
                        await ledger.until_version(name)
                        await ledger.more(20)
                        memory.append(resident_bytes(server.pid))
    finally:
        server.kill()
        await server.communicate()
    assert ledger.problems() == []
    assert set(versions) <= set(ledger.versions)
    seen.note(f"{swaps} swaps during {len(ledger.seconds) - before} calls, all OK")
    settled = memory[swaps // 4 :]
    seen.number("growth of memory", growth(settled), at_most=MEMORY_GROWTH)
    usual, swapping = p99(ledger.seconds[:before]), p99(ledger.seconds[before:])
    seen.number("p99 by that without swaps", swapping / usual, at_most=P99_FACTOR)
