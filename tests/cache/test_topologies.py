"""Redis with a Sentinel, as a Cluster, behind TLS, and with a user of limited rights."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import pytest
import pytest_asyncio
import stamina
from redis.exceptions import ResponseError

from animora_server.cache.timeline_codec import latest_key
from animora_server.precompute.retrying_store import RetryingGenerationStore
from tests.cache.documented_rights import CLUSTERED, PRECOMPUTING, SERVING
from tests.support.fault_proxy import FaultProxy
from tests.support.redis_servers import (
    SERVICE,
    Server,
    behind_tls,
    clustered,
    follow,
    make_certificates,
    move_slot,
    replica_of,
    replicated,
    serving,
    until_replication,
    watched,
)
from tests.support.redis_stores import (
    KEY,
    NOW,
    Stores,
    make_generation,
    make_timeline,
    name_of,
    until_deleted,
)
from tests.support.until import HANG_TIMEOUT, until

Freeze = Callable[[int], AbstractContextManager[None]]
PROMPT = ("--repl-diskless-sync-delay", "0")
USERS = [b"{%d}:digest:new" % user for user in range(300)]


# A Cluster takes seconds to agree on itself, so the tests share one, and with it an event loop.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[Server]]:
    async with clustered(tmp_path_factory.mktemp("cluster")) as nodes:
        yield nodes


@pytest_asyncio.fixture(loop_scope="module")
async def nodes(cluster: list[Server]) -> list[Server]:
    """The nodes of an empty Cluster."""
    for node in cluster:
        await node.client.flushall()
        await allow(node, [*PRECOMPUTING, *CLUSTERED])
    return cluster


async def allow(server: Server, commands: list[str], keys: str = "animora:*") -> None:
    """Creates the user "feed" with these rights only."""
    await server.client.acl_setuser(
        "feed", enabled=True, passwords=["+hun/ter2"], commands=commands, keys=[keys]
    )


def cluster_url(nodes: list[Server]) -> str:
    return f"redis+cluster://feed:hun%2Fter2@{','.join(f'127.0.0.1:{node.port}' for node in nodes)}"


async def test_the_primary_that_a_sentinel_names_is_used_and_after_a_failover_the_new_one(tmp_path: Path):
    async with watched(tmp_path, "hunter2") as (primary, replica, sentinel):
        url = (
            f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel.port}/{SERVICE}/2"
            "?sentinel_username=watcher&sentinel_password=hunter2"
        )
        first, second = make_timeline(), make_timeline(NOW + 1)
        async with Stores(url) as stores:
            await stores.until_stored(first)
            await stores.publish(make_generation(NOW - 1), KEY)
            await replicated(primary, replica)
            assert (await primary.client.info("keyspace"))["db2"]["keys"] == 4
        async with Stores(url, timeout=0.2) as stores:
            await stores.until_latest(first)
            os.kill(primary.child.pid, signal.SIGKILL)
            await stores.until_stored(second)
            assert (await replica.client.info("replication"))["role"] == "master"
            await stores.until_latest(second)
            assert await stores.generations.current() == make_generation(NOW - 1)


async def test_writes_follow_an_address_to_the_new_primary_while_connections_to_the_old_one_live(
    tmp_path: Path,
):
    async with (
        serving(tmp_path, *PROMPT) as first,
        serving(tmp_path, *PROMPT) as second,
        FaultProxy(first.port) as address,
        Stores(f"redis://127.0.0.1:{address.port}") as stores,
    ):
        await follow(second, first)
        await stores.until_stored(make_timeline())
        once_more = stamina.AsyncRetryingCaller(attempts=2, wait_max=0.0)
        generations = RetryingGenerationStore(stores.generations, once_more)
        assert await generations.current() is None
        for primary, replica, made in ((second, first, NOW + 1), (first, second, NOW + 2)):
            address.target = primary.port
            await follow(replica, primary)
            await stores.until_stored(make_timeline(made))
            await stores.until_latest(make_timeline(made))
            await generations.begin(make_generation(made))
            await generations.abandon(make_generation(made))
            assert await primary.client.exists(latest_key(b"animora:", KEY))
        assert not stores.is_skipped


@pytest.mark.failure(20)
async def test_reconnects_to_a_redis_that_stays_read_only_are_rate_limited(
    tmp_path: Path,
):
    async with (
        serving(tmp_path) as server,
        FaultProxy(server.port) as address,
        Stores(f"redis://127.0.0.1:{address.port}") as stores,
    ):
        await stores.until_stored(make_timeline())
        await server.client.replicaof("127.0.0.1", 1)
        before = address.connections
        for number in range(200):
            assert not await stores.timelines.put_latest(KEY, make_timeline(NOW + number))
        assert before < address.connections < before + 100
        assert name_of(await stores.timelines.latest(KEY)) == make_timeline().timeline_id
        assert not stores.is_skipped


async def test_a_connection_to_a_server_that_answers_with_errors_is_replaced(tmp_path: Path):
    async with (
        serving(tmp_path) as old,
        serving(tmp_path) as new,
        FaultProxy(old.port) as address,
        Stores(f"redis://127.0.0.1:{address.port}") as stores,
    ):
        await stores.until_stored(make_timeline())
        await old.client.config_set("replica-serve-stale-data", "no")
        await old.client.replicaof("127.0.0.1", 1)  # look-ups are answered with MASTERDOWN
        await stores.fail_until_skipped()
        address.target = new.port
        await until(lambda: not stores.is_skipped)
        await stores.until_stored(make_timeline())
        await stores.until_latest(make_timeline())


async def test_a_planned_failover_by_a_sentinel_is_followed(tmp_path: Path):
    async with (
        watched(tmp_path, "hunter2") as (primary, replica, sentinel),
        Stores(f"redis+sentinel://127.0.0.1:{sentinel.port}/{SERVICE}") as stores,
    ):
        await stores.until_stored(make_timeline())
        await replicated(primary, replica)
        async with asyncio.timeout(HANG_TIMEOUT):
            while True:
                with suppress(ResponseError):  # the Sentinel does not know yet how the replica is
                    await sentinel.client.execute_command("SENTINEL", "FAILOVER", SERVICE)
                    break
        await until_replication(replica, role="master")
        await stores.until_stored(make_timeline(NOW + 1))
        await stores.until_latest(make_timeline(NOW + 1))
        assert await replica.client.exists(latest_key(b"animora:", KEY))


async def test_a_service_that_no_sentinel_knows_is_skipped_like_a_redis_that_is_down(tmp_path: Path):
    async with (
        watched(tmp_path, "hunter2") as (_, _, sentinel),
        Stores(f"redis+sentinel://127.0.0.1:{sentinel.port}/another") as stores,
    ):
        assert stores.is_skipped
        assert await stores.timelines.latest(KEY) is None


async def test_a_cluster_shares_the_keys_and_many_look_ups_share_round_trips(nodes: list[Server]):
    # One node is enough to find the others.
    async with Stores(cluster_url(nodes[1:2])) as stores:
        generation = make_generation()
        await stores.publish(generation, *USERS)
        assert await stores.generations.are_stored(generation, USERS) == [True] * len(USERS)
        assert all([await node.client.dbsize() > 50 for node in nodes])
        before = stores.sample("animora_cache_round_trip_seconds_count", {})
        found = await asyncio.gather(*(stores.timelines.latest(user) for user in USERS))
        assert [name_of(snapshot) for snapshot in found] == [generation.generation_id] * len(USERS)
        assert stores.sample("animora_cache_round_trip_seconds_count", {}) - before < 50
        newer = make_timeline(NOW + 1)
        for user in USERS[:20]:
            assert await stores.timelines.put_latest(user, newer)
            assert name_of(await stores.timelines.latest(user)) == newer.timeline_id
        assert await stores.generations.retire(generation) == len(USERS)
        assert not stores.is_skipped
        assert [await node.client.acl_log() for node in nodes] == [[], [], []]


async def test_a_slot_that_moves_to_another_node_is_followed(nodes: list[Server]):
    async with Stores(cluster_url(nodes)) as stores:
        made = make_timeline()
        await stores.timelines.put_latest(KEY, made)
        slot = await nodes[0].client.execute_command("CLUSTER", "KEYSLOT", KEY)
        (source,) = [node for node in nodes if await node.client.dbsize()]
        target = next(node for node in nodes if node is not source)
        await move_slot(slot, source, target, nodes)
        assert name_of(await stores.timelines.latest(KEY)) == made.timeline_id
        assert await stores.timelines.put_latest(KEY, make_timeline(NOW + 1))
        assert await source.client.dbsize() == 0
        assert not stores.is_skipped


async def test_a_replica_that_takes_over_in_a_cluster_is_followed(nodes: list[Server], tmp_path: Path):
    async with Stores(cluster_url(nodes)) as stores:
        await stores.until_stored(make_timeline())
        (holder,) = [node for node in nodes if await node.client.dbsize()]
        async with replica_of(holder, tmp_path) as replica:
            await allow(replica, [*PRECOMPUTING, *CLUSTERED])
            for new, old, made in ((replica, holder, NOW + 1), (holder, replica, NOW + 2)):
                await new.client.execute_command("CLUSTER", "FAILOVER")
                await until_replication(old, role="slave")
                await stores.until_stored(make_timeline(made))
                await stores.until_latest(make_timeline(made))
                await until_replication(old, master_link_status="up")
            name = await replica.client.execute_command("CLUSTER", "MYID")
        for node in nodes:
            await node.client.execute_command("CLUSTER", "FORGET", name)
        assert not stores.is_skipped


async def test_a_cluster_with_a_frozen_node_is_skipped_until_the_node_thaws(
    nodes: list[Server], frozen: Freeze
):
    async with Stores(cluster_url(nodes), timeout=0.1) as stores:
        await stores.until_stored(make_timeline())
        (holder,) = [node for node in nodes if await node.client.dbsize()]
        with frozen(holder.child.pid):
            await stores.fail_until_skipped()
            assert await stores.timelines.latest(KEY) is None
        await until(lambda: not stores.is_skipped)
        await stores.until_latest(make_timeline())


async def test_with_tls_client_and_server_verify_each_other(tmp_path: Path):
    make_certificates(tmp_path)
    names = {"ssl_ca_certs": "ca.pem", "ssl_certfile": "leaf.pem", "ssl_keyfile": "leaf.key"}
    options = "&".join(f"{option}={tmp_path / name}" for option, name in names.items())
    async with serving(tmp_path) as server, behind_tls(server.port, tmp_path) as port:
        async with Stores(f"rediss://127.0.0.1:{port}/0?{options}") as stores:
            await stores.until_stored(make_timeline())
            await stores.publish(make_generation(), KEY)
        for refused in (
            f"rediss://127.0.0.1:{port}/0?{options.split('&')[0]}",  # no certificate of its own
            f"rediss://127.0.0.1:{port}/0",  # does not know who signed the server's
            f"rediss://localhost:{port}/0?{options}",  # another name than the certificate's
            f"redis://127.0.0.1:{port}/0",  # not encrypted
        ):
            async with Stores(refused) as stores:
                assert stores.is_skipped


async def test_a_redis_user_may_be_limited_to_the_documented_commands_and_keys(tmp_path: Path):
    async with serving(tmp_path) as server:
        await allow(server, PRECOMPUTING)
        async with Stores(f"redis://feed:hun%2Fter2@127.0.0.1:{server.port}/1") as stores:
            generation, live = make_generation(), make_timeline(NOW + 1)
            await stores.publish(generation, KEY)
            assert await stores.timelines.put_latest(KEY, live)
            assert name_of(await stores.timelines.latest(KEY)) == live.timeline_id
            assert await stores.generations.are_stored(generation, [KEY]) == [True]
            assert await stores.generations.retire(generation) == 1
            await stores.generations.begin(make_generation(NOW + 2, name=b"another"))
            await stores.generations.abandon(make_generation(NOW + 2, name=b"another"))
            assert await server.client.acl_log() == []


async def test_serving_needs_fewer_commands_than_precomputing(tmp_path: Path):
    async with serving(tmp_path) as server:
        await allow(server, SERVING)
        async with Stores(f"redis://feed:hun%2Fter2@127.0.0.1:{server.port}") as stores:
            assert await stores.timelines.put_latest(KEY, make_timeline())
            pointer = latest_key(b"animora:", KEY)
            await server.client.set(pointer, b"poison")
            assert await stores.timelines.latest(KEY) is None
            await until_deleted(server.client, pointer)
            assert await server.client.acl_log() == []


async def test_a_redis_whose_user_may_not_access_the_keys_is_skipped(tmp_path: Path):
    async with serving(tmp_path) as server:
        await allow(server, SERVING, keys="other:*")
        async with Stores(f"redis://feed:hun%2Fter2@127.0.0.1:{server.port}") as stores:
            assert stores.is_skipped
