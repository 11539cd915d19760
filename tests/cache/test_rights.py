"""The rights of docs/operation.md suffice as written, in Redis 7.0 and in the embedded server."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from animora_demo.embedded.binaries import find_redis
from tests.cache.documented_rights import CLUSTERED, LINE, PRECOMPUTING
from tests.support.redis_servers import SERVICE, Server, clustered, serving, watched
from tests.support.redis_stores import KEY, NOW, Stores, make_generation, make_timeline, name_of
from tests.support.until import until


@pytest.fixture(params=["Redis 7.0", "embedded"])
def program(request: pytest.FixtureRequest) -> Path:
    if request.param == "embedded":
        return find_redis()
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("redis-server is not installed")
    version = subprocess.run((found, "--version"), capture_output=True, text=True, check=True).stdout
    if "v=7.0" not in version:
        pytest.skip(f"redis-server is not 7.0: {version}")
    return Path(found)


async def use(url: str) -> None:
    """Makes every call that a server and a precompute run make."""
    async with Stores(url) as stores:
        generation, live = make_generation(), make_timeline(NOW + 1)
        await stores.generations.begin(generation)
        await stores.generations.intersect_posts(generation, np.arange(3))
        await stores.publish(generation, KEY)
        await until(lambda: stores.watch.posts is not None)
        assert await stores.timelines.put_latest(KEY, live)
        assert name_of(await stores.timelines.latest(KEY)) == live.timeline_id
        assert await stores.generations.are_stored(generation, [KEY]) == [True]
        assert await stores.generations.retire(generation) == 1
        another = make_generation(NOW + 2, name=b"another")
        await stores.generations.begin(another)
        await stores.generations.abandon(another)
        assert not stores.is_skipped


async def allow(server: Server, *more: str) -> None:
    await server.client.execute_command(*LINE)
    await server.client.execute_command(*LINE[:3], *PRECOMPUTING, *more)


async def test_the_documented_rights_suffice_for_a_single_server(program: Path, tmp_path: Path):
    async with serving(tmp_path, program=program) as server:
        await allow(server)
        await use(f"redis://animora:password@127.0.0.1:{server.port}/1")
        assert await server.client.acl_log() == []


async def test_the_documented_rights_suffice_with_sentinels(program: Path, tmp_path: Path):
    async with watched(tmp_path, "hunter2", program) as (primary, _, sentinel):
        await allow(primary)
        login = "sentinel_username=watcher&sentinel_password=hunter2"
        await use(f"redis+sentinel://animora:password@127.0.0.1:{sentinel.port}/{SERVICE}/2?{login}")
        assert [await server.client.acl_log() for server in (primary, sentinel)] == [[], []]


async def test_the_documented_rights_suffice_in_a_cluster(program: Path, tmp_path: Path):
    async with clustered(tmp_path, program) as nodes:
        for node in nodes:
            await allow(node, *CLUSTERED)
        await use(f"redis+cluster://animora:password@127.0.0.1:{nodes[0].port}")
        assert [await node.client.acl_log() for node in nodes] == [[], [], []]
