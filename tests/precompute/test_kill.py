"""A run that is killed and resumed stores the same timelines, byte for byte."""

import asyncio
import sys
import time
from random import Random

import pytest
import redis.asyncio

from animora_artifact import FolderStore
from animora_server.precompute.generation_store import RedisGenerations
from animora_server.precompute.job import RunOptions, run
from animora_server.precompute.plan import new_generation_id
from animora_server.settings import Settings
from animora_server.timeline.store import settings_digest
from animora_server.types import Generation
from tests.precompute import crowd
from tests.precompute.fakes import ProgressRecorder
from tests.support.processes import animora_environment
from tests.support.until import HANG_TIMEOUT

KILLS = 5
# Imports take most of a start: they are done beforehand, and the command waits for its turn.
WAITING = """
import sys
import animora_server.precompute.command
from animora_server.__main__ import main
sys.stdin.readline()
main()
"""
# The rate makes a run last about a second, so that a kill interrupts it.
RATE = str(len(crowd.USERS) * len(crowd.POSTS))


@pytest.fixture
def settings(postgres_url, redis_url, tmp_path):
    return Settings.model_validate(
        {
            "database": {"url": postgres_url},
            "cache": {"url": redis_url},
            "models": {"store": str(tmp_path / "models")},
            "scorer": {"device": "cpu"},
        }
    )


def environment(settings):
    return animora_environment() | {
        "ANIMORA_DATABASE_URL": settings.database.url.get_secret_value(),
        "ANIMORA_CACHE_URL": settings.cache.url.get_secret_value(),
        "ANIMORA_MODELS_STORE": settings.models.store,
        "ANIMORA_SCORER_DEVICE": "cpu",
    }


async def values(client):
    """Every key and value in Redis."""
    keys = sorted([key async for key in client.scan_iter(match="animora:list:*", count=10_000)])
    return dict(zip(keys, await client.mget(keys), strict=True))


async def begin(settings, record):
    """Begins a given generation, so that several runs have the same time and id."""
    async with RedisGenerations(settings.cache, settings.timeline, settings.precompute) as generations:
        assert await generations.begin(record) == record


async def finish(settings):
    async with RedisGenerations(settings.cache, settings.timeline, settings.precompute) as generations:
        return await run(settings, RunOptions(), generations, ProgressRecorder())


async def test_a_run_that_is_killed_five_times_stores_the_same_timelines_as_an_uninterrupted_one(
    settings, postgres_url, redis_url, tmp_path
):
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", WAITING, "precompute", "--rate", RATE),
            env=environment(settings),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
        )
        for _ in range(KILLS)
    ]
    await crowd.fill(postgres_url)
    models = FolderStore(tmp_path / "models")
    models.publish(crowd.artifact("v1"))
    models.activate("v1")
    record = Generation(
        generation_id=new_generation_id(),
        made_at=time.time(),
        read_at=time.time(),
        model_version="v1",
        catalog_digest="",
        settings_digest=settings_digest(settings.timeline, settings.ranking),
        shards=1,
    )
    await begin(settings, record)
    # The number of timelines at which a process is killed: never all, since it would finish first.
    kills = sorted(Random(4).sample(range(1, len(crowd.USERS) - 100), KILLS))
    async with redis.asyncio.from_url(redis_url) as client, asyncio.timeout(HANG_TIMEOUT):
        for process, count in zip(processes, kills, strict=True):
            assert process.stdin is not None
            process.stdin.write(b"\n")
            while await client.dbsize() <= count:
                assert process.returncode is None
            process.kill()
            await process.wait()
        resumed = await finish(settings)
        interrupted = await values(client)
        await client.flushall()
        await begin(settings, record)
        uninterrupted = await finish(settings)
        assert await values(client) == interrupted
    assert len(interrupted) == len(crowd.USERS)
    assert resumed.totals.kept > 0
    assert resumed.totals.ranked > 0
    assert uninterrupted.totals.neucf == len(crowd.TRAINED)
    assert resumed.current
    assert uninterrupted.current
