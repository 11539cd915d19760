"""Passwords of Redis from files that are replaced while the caches are in use."""

import asyncio
from pathlib import Path

import pytest
import stamina
from pydantic import SecretStr

from animora_server.cache.connection import open_redis
from animora_server.errors import ConfigurationError
from animora_server.precompute.retrying_store import RetryingGenerationStore
from animora_server.settings import CacheSettings
from tests.support.redis_servers import SERVICE, Server, clustered, serving, watched
from tests.support.redis_stores import KEY, NOW, Stores, make_generation, make_timeline


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("first-secret\n")
    return path


async def set_password(server: Server, password: str) -> None:
    """Gives the user "feed" one password, and ends its connections."""
    await server.client.acl_setuser(
        "feed", enabled=True, reset_passwords=True, passwords=[f"+{password}"], commands=["+@all"], keys=["*"]
    )
    await server.client.client_kill_filter(user="feed")


async def check_rotation(url: str, file: Path, *servers: Server, sentinels: Path | None = None) -> None:
    """Rotates the password in the servers and the file; both caches and precomputing go on."""
    for server in servers:
        await set_password(server, "first-secret")
    async with Stores(url, password_file=file, sentinel_password_file=sentinels) as stores:
        await stores.until_stored(make_timeline())
        await stores.publish(make_generation(NOW - 1), KEY)
        once_more = stamina.AsyncRetryingCaller(attempts=2, wait_max=0.0)
        generations = RetryingGenerationStore(stores.generations, once_more)
        assert await generations.current() == make_generation(NOW - 1)
        await asyncio.to_thread(file.write_text, "second-secret\n")
        for server in servers:
            await set_password(server, "second-secret")
        await stores.until_stored(make_timeline(NOW + 1))
        await stores.until_latest(make_timeline(NOW + 1))
        assert await generations.current() == make_generation(NOW - 1)


async def test_a_single_server(file: Path, tmp_path: Path):
    async with serving(tmp_path) as server:
        await check_rotation(f"redis://feed@127.0.0.1:{server.port}", file, server)


async def test_a_password_of_all_users(file: Path, tmp_path: Path):
    async with serving(tmp_path) as server:
        url = f"redis://127.0.0.1:{server.port}"
        await server.client.config_set("requirepass", "first-secret")
        async with Stores(url, password_file=file) as stores:
            await stores.until_stored(make_timeline())
            await asyncio.to_thread(file.write_text, "second-secret\n")
            await server.client.config_set("requirepass", "second-secret")
            await server.client.client_kill_filter(_type="normal", skipme=True)
            await stores.until_stored(make_timeline(NOW + 1))
            await stores.until_latest(make_timeline(NOW + 1))


async def test_a_primary_and_its_sentinels(file: Path, tmp_path: Path):
    sentinels = tmp_path / "sentinels"
    sentinels.write_text("hunter2\n")
    async with watched(tmp_path, "hunter2") as (primary, _, sentinel):
        url = f"redis+sentinel://feed@127.0.0.1:{sentinel.port}/{SERVICE}?sentinel_username=watcher"
        await check_rotation(url, file, primary, sentinels=sentinels)


async def test_a_cluster(file: Path, tmp_path: Path):
    async with clustered(tmp_path) as nodes:
        await check_rotation(f"redis+cluster://feed@127.0.0.1:{nodes[0].port}", file, *nodes)


@pytest.mark.parametrize(
    ("url", "option", "why"),
    [
        ("redis://:secret@host", "password_file", "cache.url has a password, and cache.password_file is set"),
        (
            "redis+sentinel://host/feed?sentinel_password=secret",
            "sentinel_password_file",
            "cache.url has a password, and cache.sentinel_password_file is set",
        ),
        (
            "redis://host",
            "sentinel_password_file",
            "cache.sentinel_password_file: cache.url names no Sentinels",
        ),
    ],
)
def test_a_password_file_that_does_not_fit_the_url_is_refused(url: str, option: str, why: str, file: Path):
    with pytest.raises(ConfigurationError) as refused:
        open_redis(CacheSettings.model_validate({"url": SecretStr(url), option: file}))
    assert str(refused.value).startswith(why)
    assert "secret" not in str(refused.value)


def test_a_missing_password_file_is_named_with_its_option(tmp_path: Path):
    settings = CacheSettings(url=SecretStr("redis://host"), password_file=tmp_path / "none")
    with pytest.raises(ConfigurationError, match=r"^cache\.password_file: cannot read .*none \(No such file"):
        open_redis(settings)
