"""Workers that share one device, as processes: scores, a model swap, kills and freezes."""

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from animora_proto.ranking.v1 import ranking_pb2 as pb
from tests.support.artifacts import tiny_artifact
from tests.support.feed import COLD_USER, TRAINED_USERS
from tests.support.ledger import Ledger
from tests.support.processes import kill, mapped
from tests.support.until import HANG_TIMEOUT
from tests.workers.callers import callers
from tests.workers.group import group

NETWORKS = {f"v{seed}": tiny_artifact(f"v{seed}", seed=seed)[1] for seed in range(1, 4)}
USER = TRAINED_USERS[0]


@pytest.fixture
def sharing(options: dict[str, str]) -> dict[str, str]:
    return options | {"SCORER_SHARED": "on", "MODELS_POLL_INTERVAL": "0.1"}


@asynccontextmanager
async def loaded(servers, feed):
    """Keeps two requests in flight on each of some connections; yields their ledger and the connections."""
    ledger = Ledger(feed, NETWORKS)
    async with AsyncExitStack() as stack:
        connections = await stack.enter_async_context(callers(await servers.grpc_port(), 2))
        for caller in connections:
            await stack.enter_async_context(ledger.load(caller.stub, workers=2))
        yield ledger, connections
    assert ledger.wrong == []
    assert sum(ledger.outcomes.values()) == ledger.sent


async def test_scores_equal_those_of_a_device_in_each_worker(feed, options, sharing):
    requests = [
        pb.RankRequest(user_id=user, post_ids=feed.post_ids, cache_policy=pb.CACHE_POLICY_BYPASS)
        for user in (*TRAINED_USERS, COLD_USER)
    ]
    requests.append(pb.RankRequest(user_id=USER, post_ids=feed.post_ids[:10], explain=True))
    async with (
        group("--workers", "2", **sharing) as servers,
        group("--workers", "2", **options) as others,
        asyncio.timeout(HANG_TIMEOUT),
    ):
        _, workers = await servers.serving_with_device(2)
        await others.serving(2)
        assert not any(b"libtorch" in mapped(pid) for pid in workers)
        async with (
            callers(await servers.grpc_port(), 2) as connections,
            callers(await others.grpc_port(), 1) as apart,
        ):
            for request in requests:
                expected = await apart[0].stub.Rank(request, timeout=HANG_TIMEOUT)
                for caller in connections:
                    answer = await caller.stub.Rank(request, timeout=HANG_TIMEOUT)
                    assert answer.post_ids == expected.post_ids
                    assert answer.ranker == expected.ranker
                    assert answer.model_version == expected.model_version
                    if answer.ranker == pb.RANKER_NEUCF:
                        assert list(answer.scores) == pytest.approx(list(expected.scores), abs=1e-5)
            for caller in connections:
                page = await caller.stub.GetTimeline(
                    pb.GetTimelineRequest(user_id=USER, page_size=20), timeout=HANG_TIMEOUT
                )
                assert page.ranker == pb.RANKER_NEUCF


async def test_the_version_of_an_arm_serves_from_a_shared_device_and_returns_with_it(feed, sharing, store):
    store.publish(tiny_artifact("v2", seed=2)[0])
    arms = json.dumps({"canary": {"share": 100, "model_version": "v2"}})
    async with (
        group("--workers", "2", **sharing, EXPERIMENTS_ARMS=arms) as servers,
        asyncio.timeout(HANG_TIMEOUT),
    ):
        device, _ = await servers.serving_with_device(2)
        async with loaded(servers, feed) as (ledger, _):
            await ledger.until_version("v2")
            kill(device)
            await servers.serving_with_device(2, without=device)
            ledger.versions.clear()
            await ledger.until_version("v2")
        assert {arm for _, arm, version in ledger.arms if version == "v2"} == {"canary"}
        assert ledger.outcomes.keys() <= {"OK", "DEGRADED_REASON_DEVICE_FAULT", "DEGRADED_REASON_NO_MODEL"}


@pytest.mark.failure(14)
async def test_a_killed_device_costs_no_request_and_comes_back(feed, sharing):
    async with group("--workers", "2", **sharing) as servers, asyncio.timeout(HANG_TIMEOUT):
        device, workers = await servers.serving_with_device(2)
        async with loaded(servers, feed) as (ledger, _):
            await ledger.more(100)
            kill(device)
            _, same = await servers.serving_with_device(2, without=device)
            answered = ledger.outcomes["OK"]
            while ledger.outcomes["OK"] < answered + 100:
                await ledger.more(10)
        assert set(ledger.outcomes) <= {"OK", "DEGRADED_REASON_DEVICE_FAULT"}
        assert same == workers
        assert await servers.value("animora_device_restarts_total", why="failed") == 1
        assert await servers.value("animora_worker_restarts_total") == 0


@pytest.mark.failure(14)
async def test_without_the_device_process_the_heuristic_answers_with_a_degraded_reason(feed, sharing, frozen):
    async with (
        group("--workers", "2", **sharing | {"SCORER_HANG_TIMEOUT": "0.5"}) as servers,
        asyncio.timeout(HANG_TIMEOUT),
    ):
        device, _ = await servers.serving_with_device(2)
        async with loaded(servers, feed) as (ledger, _):
            await ledger.more(50)
            with frozen(device):
                while ledger.outcomes["DEGRADED_REASON_DEVICE_FAULT"] < 50:
                    await ledger.more(1)
                while await servers.value("animora_workers_serving"):
                    await ledger.more(10)
            answered = ledger.outcomes["OK"]
            while ledger.outcomes["OK"] < answered + 50:
                await ledger.more(1)
        assert set(ledger.outcomes) <= {"OK", "DEGRADED_REASON_DEVICE_FAULT", "DEGRADED_REASON_DEADLINE"}


@pytest.mark.failure(16)
async def test_a_model_swap_under_load_keeps_every_reply_consistent_with_its_version(feed, store, sharing):
    async with group("--workers", "2", **sharing) as servers, asyncio.timeout(HANG_TIMEOUT):
        await servers.serving_with_device(2)
        async with loaded(servers, feed) as (ledger, _):
            for version in ("v2", "v3", "v2"):
                if version not in [manifest.version for manifest in store.listing().manifests]:
                    store.publish(tiny_artifact(version, seed=int(version[1]))[0])
                ledger.versions.clear()
                store.activate(version)
                await ledger.until_version(version)
                await ledger.more(100)
        assert ledger.outcomes == {"OK": ledger.sent}


async def test_a_killed_worker_affects_neither_the_device_nor_other_workers(feed, sharing):
    async with group("--workers", "2", **sharing) as servers, asyncio.timeout(HANG_TIMEOUT):
        device, workers = await servers.serving_with_device(2)
        async with loaded(servers, feed) as (ledger, connections):
            await ledger.more(100)
            kill(workers[0])
            same, _ = await servers.serving_with_device(2, without=workers[0])
            await ledger.more(100)
        assert same == device
        assert set(ledger.outcomes) <= {"OK", "UNAVAILABLE"}
        assert ledger.outcomes["UNAVAILABLE"] <= 2 * len(connections)


async def test_all_workers_drain_before_the_device_process_ends(sharing):
    async with group("--workers", "2", **sharing) as servers, asyncio.timeout(HANG_TIMEOUT):
        await servers.serving_with_device(2)
        assert await servers.value("animora_device_serving") == 1
        assert await servers.value("process_resident_memory_bytes", worker="device")
        async with callers(await servers.grpc_port(), 2):
            pass
        assert await servers.value("animora_batch_rows_count")
        servers.process.terminate()
        assert await servers.end() == 0
        ends = [event["worker"] for event in servers.events if event["event"] in {"draining", "leaving"}]
        assert ends[-1] == "device"
        assert not any(event["level"] in {"error", "critical"} for event in servers.events)


async def test_a_killed_supervisor_ends_all_processes_and_leaves_no_socket(
    sharing, server_directory, monkeypatch
):
    folder = server_directory / "sockets"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    async with group("--workers", "2", **sharing) as servers, asyncio.timeout(HANG_TIMEOUT):
        await servers.serving_with_device(2)
        assert len(list(folder.glob("animora-*/device"))) == 1
        servers.process.kill()
        await servers.end()  # the log is closed when all who write to it have ended
        assert list(folder.iterdir()) == []


async def test_an_absent_device_is_reported_in_one_line_that_names_the_option(sharing):
    async with group("--workers", "2", **sharing | {"SCORER_DEVICE": "cuda:7"}) as servers:
        assert await servers.end() == 2
    assert ["scorer.device" in line for line in servers.other_lines] == [True]
