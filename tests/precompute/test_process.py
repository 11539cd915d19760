"""`animora-server precompute` as a process."""

import asyncio
import json
import sys

import pytest
import redis.asyncio

from tests.support.processes import animora_environment

WITHOUT_RAY = "import sys; sys.modules['ray'] = None; from animora_server.__main__ import main; main()"


@pytest.fixture
def environment(feed, models, redis_url, tmp_path, server_directory):
    """The options of the command, as environment variables."""
    return animora_environment() | {
        "ANIMORA_DATABASE_URL": feed.url,
        "ANIMORA_CACHE_URL": redis_url,
        "ANIMORA_MODELS_STORE": str(tmp_path / "models"),
        "ANIMORA_SCORER_DEVICE": "cpu",
        # Ray leaves logs and a token; its sockets want a short path.
        "RAY_TMPDIR": str(server_directory / "ray"),
        "HOME": str(tmp_path),
        "COLUMNS": "120",
    }


async def ended(environment, *arguments, program=("-m", "animora_server")):
    """Exit status, standard output and standard error of the command."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *program, "precompute", *arguments),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_all_shards_of_a_generation_run_on_a_local_ray_cluster(environment, redis_url):
    status, out, err = await ended(environment, "--ray", "local", "--shards", "2", "--restart")
    assert status == 0, err
    assert "2 of 2, on Ray" in out
    async with redis.asyncio.from_url(redis_url) as client:
        record = await client.get("animora:{generation}:current")
        assert record is not None
        current = json.loads(record)
        timelines = [
            key async for key in client.scan_iter(match=f"animora:list:{current['generation_id']}:*")
        ]
    assert current["shards"] == 2
    assert len(timelines) == 8


async def test_without_ray_its_option_says_what_to_install(environment):
    status, _, err = await ended(environment, "--ray", "local", program=("-c", WITHOUT_RAY))
    assert status == 2
    assert "pip install 'animora-ranking[ray]'" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("missing", ["ANIMORA_DATABASE_URL", "ANIMORA_CACHE_URL"])
async def test_a_missing_setting_is_named(environment, missing):
    status, _, err = await ended(environment | {missing: ""})
    assert status == 2
    assert missing in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--shards", "4"), "--shards requires --ray"),
        (("--ray", "local", "--shard", "1/2"), "--shard cannot be combined with --ray"),
        (("--shard", ""), "such as 0/8"),
        (("--active-days", "0"), "--active-days"),
        (("--active-days", "inf"), "--active-days"),
    ],
)
async def test_invalid_options_are_refused(environment, arguments, said):
    status, _, err = await ended(environment, *arguments)
    assert (status, "Traceback" in err) == (2, False)
    assert said in err


async def test_a_malformed_shard_is_refused_before_anything_is_loaded(environment):
    status, _, err = await ended(environment | {"ANIMORA_CACHE_URL": "unix:///nowhere"}, "--shard", "8/8")
    assert status == 2
    assert "such as 0/8" in err
