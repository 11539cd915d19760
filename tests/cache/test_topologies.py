"""Redis with a Sentinel, as a Cluster, behind TLS, and with a user who may do what is needed and no more."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import pytest_asyncio

from animora_server.cache.keys import latest_key
from tests.cache.servers import (
    SERVICE,
    Server,
    behind_tls,
    clustered,
    make_certificates,
    move_slot,
    replicated,
    serving,
    watched,
)
from tests.cache.stores import KEY, NOW, Stores, make_generation, make_list, name_of, until

Freeze = Callable[[int], AbstractContextManager[None]]
USERS = [b"{%d}:digest:new" % user for user in range(300)]

# As docs/operation.md has them.
SERVING = ["+mget", "+set", "+del", "+select", "+client|setinfo"]
PRECOMPUTING = [*SERVING, "+get", "+exists", "+eval", "+sadd", "+scard", "+scan", "+pexpire"]
CLUSTERED = ["+cluster|slots", "+command", "+asking"]


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
    """Has a user "feed" who may do no more than this."""
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
        first, second = make_list(), make_list(NOW + 1)
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


async def test_a_service_that_no_sentinel_knows_is_a_redis_that_is_left_alone(tmp_path: Path):
    async with (
        watched(tmp_path, "hunter2") as (_, _, sentinel),
        Stores(f"redis+sentinel://127.0.0.1:{sentinel.port}/another") as stores,
    ):
        assert stores.left_alone
        assert await stores.timelines.latest(KEY) is None


async def test_a_cluster_shares_the_keys_and_many_look_ups_share_round_trips(nodes: list[Server]):
    # One node is enough to find the others.
    async with Stores(cluster_url(nodes[1:2])) as stores:
        generation = make_generation()
        await stores.publish(generation, *USERS)
        assert await stores.generations.present(generation, USERS) == [True] * len(USERS)
        assert all([await node.client.dbsize() > 50 for node in nodes])
        before = stores.sample("animora_cache_round_trip_seconds_count", {})
        found = await asyncio.gather(*(stores.timelines.latest(user) for user in USERS))
        assert [name_of(snapshot) for snapshot in found] == [generation.generation_id] * len(USERS)
        assert stores.sample("animora_cache_round_trip_seconds_count", {}) - before < 50
        newer = make_list(NOW + 1)
        for user in USERS[:20]:
            assert await stores.timelines.make_latest(user, newer)
            assert name_of(await stores.timelines.latest(user)) == newer.snapshot_id
        assert await stores.generations.retire(generation) == len(USERS)
        assert not stores.left_alone
        assert [await node.client.acl_log() for node in nodes] == [[], [], []]


async def test_a_slot_that_moves_to_another_node_is_followed(nodes: list[Server]):
    async with Stores(cluster_url(nodes)) as stores:
        made = make_list()
        await stores.timelines.make_latest(KEY, made)
        slot = await nodes[0].client.execute_command("CLUSTER", "KEYSLOT", KEY)
        (source,) = [node for node in nodes if await node.client.dbsize()]
        target = next(node for node in nodes if node is not source)
        await move_slot(slot, source, target, nodes)
        assert name_of(await stores.timelines.latest(KEY)) == made.snapshot_id
        assert await stores.timelines.make_latest(KEY, make_list(NOW + 1))
        assert await source.client.dbsize() == 0
        assert not stores.left_alone


async def test_a_node_that_freezes_is_a_miss_then_the_cluster_is_left_alone_until_it_thaws(
    nodes: list[Server], frozen: Freeze
):
    async with Stores(cluster_url(nodes), timeout=0.1) as stores:
        await stores.until_stored(make_list())
        (holder,) = [node for node in nodes if await node.client.dbsize()]
        with frozen(holder.child.pid):
            await stores.fail_until_left_alone()
            assert await stores.timelines.latest(KEY) is None
        await until(lambda: not stores.left_alone)
        await stores.until_latest(make_list())


async def test_encrypted_both_sides_prove_who_they_are(tmp_path: Path):
    make_certificates(tmp_path)
    names = {"ssl_ca_certs": "ca.pem", "ssl_certfile": "leaf.pem", "ssl_keyfile": "leaf.key"}
    options = "&".join(f"{option}={tmp_path / name}" for option, name in names.items())
    async with serving(tmp_path) as server, behind_tls(server.port, tmp_path) as port:
        async with Stores(f"rediss://127.0.0.1:{port}/0?{options}") as stores:
            assert await stores.timelines.make_latest(KEY, make_list())
            await stores.publish(make_generation(), KEY)
        for refused in (
            f"rediss://127.0.0.1:{port}/0?{options.split('&')[0]}",  # no certificate of its own
            f"rediss://127.0.0.1:{port}/0",  # does not know who signed the server's
            f"rediss://localhost:{port}/0?{options}",  # another name than the certificate's
            f"redis://127.0.0.1:{port}/0",  # not encrypted
        ):
            async with Stores(refused) as stores:
                assert stores.left_alone


async def test_a_user_may_be_kept_to_the_commands_and_keys_that_are_needed(tmp_path: Path):
    async with serving(tmp_path) as server:
        await allow(server, PRECOMPUTING)
        async with Stores(f"redis://feed:hun%2Fter2@127.0.0.1:{server.port}/1") as stores:
            generation, live = make_generation(), make_list(NOW + 1)
            await stores.publish(generation, KEY)
            assert await stores.timelines.make_latest(KEY, live)
            assert name_of(await stores.timelines.latest(KEY)) == live.snapshot_id
            assert await stores.generations.present(generation, [KEY]) == [True]
            assert await stores.generations.retire(generation) == 1
            await stores.generations.begin(make_generation(NOW + 2, name=b"another"))
            await stores.generations.abandon(make_generation(NOW + 2, name=b"another"))
            assert await server.client.acl_log() == []


async def test_a_server_alone_needs_fewer_commands_than_precomputing(tmp_path: Path):
    async with serving(tmp_path) as server:
        await allow(server, SERVING)
        async with Stores(f"redis://feed:hun%2Fter2@127.0.0.1:{server.port}") as stores:
            assert await stores.timelines.make_latest(KEY, make_list())
            pointer = latest_key(b"animora:", KEY)
            await server.client.set(pointer, b"poison")
            assert await stores.timelines.latest(KEY) is None
            async with asyncio.timeout(20):
                while await server.client.exists(pointer):
                    pass
            assert await server.client.acl_log() == []


async def test_with_other_keys_than_the_users_redis_is_left_alone(tmp_path: Path):
    async with serving(tmp_path) as server:
        await allow(server, SERVING, keys="other:*")
        async with Stores(f"redis://feed:hun%2Fter2@127.0.0.1:{server.port}") as stores:
            assert stores.left_alone
