"""Workers behind one port, as processes: called, killed, frozen, drained, misconfigured."""

import asyncio
import os
import select
import signal
from contextlib import AsyncExitStack
from functools import partial
from itertools import pairwise

import asyncpg
import grpc
import pytest
from grpc_health.v1 import health_pb2

from animora_client import AsyncRankingClient, ChannelOptions
from animora_proto.ranking.v1 import ranking_pb2 as pb
from tests.support.artifacts import tiny_artifact
from tests.support.feed import AUTHORS, TRAINED_USERS
from tests.support.ledger import Ledger
from tests.support.processes import kill
from tests.support.unread_log import send_compressed, status, unread
from tests.support.until import HANG_TIMEOUT, until
from tests.workers.callers import OWN_CONNECTION, callers
from tests.workers.group import INTERVAL, Group, group

NETWORKS = {"v1": tiny_artifact("v1", seed=1)[1]}
COUNTED = ("_total", "_bucket", "_count", "_sum")
USER, OTHER_USER = TRAINED_USERS[:2]


async def ranked(servers: Group) -> float:
    return await servers.value("animora_requests_total", code="OK")


async def some_are_ranked(servers: Group) -> bool:
    return await ranked(servers) >= 50


@pytest.mark.failure(27)
async def test_a_killed_worker_costs_its_calls_in_flight_and_nothing_else(feed, options):
    async with group("--workers", "2", **options) as servers, asyncio.timeout(HANG_TIMEOUT):
        pids = await servers.serving(2)
        async with callers(await servers.grpc_port(), 2) as connections, AsyncExitStack() as stack:
            ledger = Ledger(feed, NETWORKS)
            for caller in connections:
                await stack.enter_async_context(ledger.load(caller.stub, workers=2))
            await ledger.more(200)
            kill(pids[0])
            again = await servers.serving(2, without=pids[0])
            await ledger.more(200)
        assert ledger.wrong == []
        assert set(ledger.outcomes) <= {"OK", "UNAVAILABLE"}
        assert ledger.outcomes["UNAVAILABLE"] <= 2 * len(connections)
        assert pids[1] in again


async def test_merged_counters_are_exact_after_a_worker_was_killed_and_replaced(options):
    async with group("--workers", "2", **options) as servers, asyncio.timeout(HANG_TIMEOUT):
        pids = await servers.serving(2)

        async def send_some() -> int:
            async with callers(await servers.grpc_port(), 2) as connections:
                calls = [
                    caller.stub.Rank(pb.RankRequest(user_id=USER, post_ids=[100, 200]), timeout=HANG_TIMEOUT)
                    for caller in connections
                    for _ in range(5)
                ]
                await asyncio.gather(*calls)
            return len(connections) + len(calls)

        sent = await send_some()
        assert await ranked(servers) == sent
        kill(pids[0])
        await servers.serving(2, without=pids[0])
        assert await ranked(servers) == sent
        sent += await send_some()
        assert await ranked(servers) == sent
        assert await servers.value("grpc_server_handled_total", grpc_code="OK") == sent
        assert await servers.value("grpc_server_handling_seconds_count") == sent
        assert await servers.value("animora_worker_restarts_total", why="failed") == 1


async def test_no_counter_ever_decreases(options):
    async with group(**options | {"GRPC_WORKERS": "2"}) as servers, asyncio.timeout(HANG_TIMEOUT):
        pids = await servers.serving(2)
        pages = [await servers.metrics()]
        async with AsyncRankingClient(f"127.0.0.1:{await servers.grpc_port()}") as client:
            kill(pids[0])
            while await ranked(servers) < 100 or set(servers.pids()) == set(pids):
                await asyncio.gather(*(client.rank(USER, [100, 200], timeout=10) for _ in range(8)))
                pages.append(await servers.metrics())
        for before, after in pairwise(pages):
            for (name, labels), value in before.items():
                if name.endswith(COUNTED) and not name.startswith("process_"):
                    assert after[name, labels] >= value, f"{name} {dict(labels)}"


async def test_a_frozen_worker_does_not_block_a_scrape_and_keeps_its_counters(options, frozen):
    async with group("--workers", "2", **options) as servers, asyncio.timeout(HANG_TIMEOUT):
        pids = await servers.serving(2)
        async with callers(await servers.grpc_port(), 2) as connections:
            sent = len(connections)
        assert await ranked(servers) == sent
        with frozen(pids[0]):
            assert await ranked(servers) == sent
            assert await servers.page("/readyz") == "ok\n"
        assert await ranked(servers) == sent


@pytest.mark.failure(25)
async def test_committed_changes_reach_all_workers_and_any_worker_serves_the_next_page(feed, options):
    async with group("--workers", "2", **options) as servers, asyncio.timeout(HANG_TIMEOUT):
        await servers.serving(2)
        async with callers(await servers.grpc_port(), 2) as connections:
            one = connections[0]
            other = next(caller for caller in connections if caller.process != one.process)
            first = await one.stub.GetTimeline(
                pb.GetTimelineRequest(user_id=USER, page_size=5), timeout=HANG_TIMEOUT
            )
            following = await other.stub.GetTimeline(
                pb.GetTimelineRequest(user_id=USER, page_size=5, page_token=first.next_page_token),
                timeout=HANG_TIMEOUT,
            )
            assert len({*first.post_ids, *following.post_ids}) == 10

            request = pb.RankRequest(user_id=OTHER_USER, post_ids=feed.post_ids)
            database = await asyncpg.connect(feed.url)
            await database.execute(
                "INSERT INTO animora_app.block_relations (blocker_id, blocked_id) VALUES ($1, $2)",
                *(OTHER_USER, AUTHORS[0]),
            )
            await database.close()

            async def both_know() -> bool:
                answers = [await caller.stub.Rank(request, timeout=HANG_TIMEOUT) for caller in (one, other)]
                return all(answer.dropped.blocked for answer in answers)

            await until(both_know, INTERVAL)


async def count_calls_until(stop: asyncio.Event, client: AsyncRankingClient) -> int:
    """Makes one call after another, and returns the number of answered ones."""
    answered = 0
    while not stop.is_set():
        await client.rank(USER, [100, 200, 300], timeout=HANG_TIMEOUT)
        answered += 1
    return answered


@pytest.mark.failure(26)
async def test_sigterm_to_one_worker_under_load_loses_no_request(options):
    async with group("--workers", "2", **options) as servers, asyncio.timeout(HANG_TIMEOUT):
        pids, replaced = await servers.serving(2), asyncio.Event()
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
            port = await servers.grpc_port()
            clients = [
                AsyncRankingClient(f"127.0.0.1:{port}", channel=ChannelOptions(extra=OWN_CONNECTION))
                for _ in range(8)
            ]
            calling = [
                tasks.create_task(count_calls_until(replaced, await stack.enter_async_context(client)))
                for client in clients
            ]
            for pid in pids:
                os.kill(pid, signal.SIGTERM)
                await servers.serving(2, without=pid)
            replaced.set()
        assert all(task.result() for task in calling)
        assert await servers.value("animora_worker_restarts_total", why="stopped") == 2


@pytest.mark.failure(26)
async def test_sigterm_to_all_under_load_loses_no_request_if_another_server_runs(options):
    async with (
        group("--workers", "2", **options) as servers,
        group(**options) as another,
        asyncio.timeout(HANG_TIMEOUT),
    ):
        pids, drained = await servers.serving(2), asyncio.Event()
        (alone,) = await another.logged(lambda event: event["event"] == "listening")
        both = f"ipv4:127.0.0.1:{await servers.grpc_port()},127.0.0.1:{alone['grpc_port']}"
        async with AsyncRankingClient(both) as client, asyncio.TaskGroup() as tasks:
            calling = [tasks.create_task(count_calls_until(drained, client)) for _ in range(8)]
            await until(partial(some_are_ranked, servers), INTERVAL)
            servers.process.send_signal(signal.SIGTERM)
            assert await servers.end() == 0
            drained.set()
        assert all(task.result() for task in calling)
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)


async def test_workers_show_no_secret_and_end_with_a_killed_supervisor(options):
    async with group("--workers", "2", **options) as servers, asyncio.timeout(HANG_TIMEOUT):
        descriptors = [os.pidfd_open(pid) for pid in await servers.serving(2)]
        lines = servers.command_lines()
        assert [options["DATABASE_URL"].encode() in line for line in lines] == [False, False]
        servers.process.kill()
        for descriptor in descriptors:
            readable, _, _ = await asyncio.to_thread(select.select, [descriptor], [], [], 10)
            assert readable, "a worker outlived its parent by ten seconds"
            os.close(descriptor)


@pytest.mark.failure(27)
async def test_workers_that_keep_failing_end_the_supervisor(options):
    async with group("--workers", "2", **options) as servers, asyncio.timeout(HANG_TIMEOUT):
        await servers.grpc_port()
        while servers.process.returncode is None:
            for pid in servers.pids():
                kill(pid)
            await asyncio.sleep(INTERVAL)
        assert await servers.end() == 1
    assert [event["ends"] for event in servers.events if event["level"] == "critical"] == [5]


async def test_sigterm_during_start_up_ends_all_processes(options):
    async with group("--workers", "2", **options) as servers, asyncio.timeout(HANG_TIMEOUT):
        await servers.grpc_port()
        servers.process.send_signal(signal.SIGTERM)
        assert await servers.end() == 0


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"GRPC_TLS_CERTIFICATE": "/nowhere", "GRPC_TLS_KEY": "/nowhere"}, "grpc.tls_certificate"),
        ({"GRPC_HOST": "192.0.2.1", "GRPC_INSECURE": "true"}, "grpc.port"),
    ],
)
async def test_an_invalid_option_is_reported_in_one_line_that_names_it(options, wrong, named):
    async with group("--workers", "2", **options | wrong) as servers:
        assert await servers.end() == 2
    assert [named in line for line in servers.other_lines] == [True]


@pytest.mark.parametrize("shared", ["off", "on"])
async def test_workers_keep_serving_while_nobody_reads_their_log_and_sighup_drains_them(options, shared):
    async with (
        unread("--workers", "2", **(options | {"SCORER_SHARED": shared})) as server,
        asyncio.timeout(HANG_TIMEOUT),
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        assert await status(channel, "") == health_pb2.HealthCheckResponse.SERVING
        await send_compressed(channel)
        assert await status(channel, "") == health_pb2.HealthCheckResponse.SERVING
        await channel.close()
        assert await server.end(signal.SIGHUP) == 0
