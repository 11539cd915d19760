import asyncio
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError
from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster, SentinelConnectionPool, SSLConnection

from animora_server.cache.address import ClusterAddress, SentinelAddress, SingleAddress, parse_address
from animora_server.cache.connection import close_redis, open_redis
from animora_server.errors import ConfigurationError
from animora_server.settings import REDIS_SCHEMES, CacheSettings
from tests.support.until import HANG_TIMEOUT


def test_the_url_of_a_single_server_means_what_redis_py_says():
    address = parse_address("redis://user:p%40ss@host:1/2?client_name=a")
    assert address == SingleAddress(
        {
            "username": "user",
            "password": "p@ss",
            "host": "host",
            "port": 1,
            "db": 2,
            "client_name": "a",
        }
    )


def test_sentinels_are_listed_and_the_path_names_the_primary_and_the_database():
    address = parse_address("redis+sentinel://user:p%40ss@one:1,two,[::1]:3/feed%20a/2")
    assert address == SentinelAddress(
        sentinels=(("one", 1), ("two", 26379), ("::1", 3)),
        service="feed a",
        options={"username": "user", "password": "p@ss", "db": 2},
        sentinel_options={},
    )


def test_sentinels_have_credentials_of_their_own_and_the_same_encryption(tmp_path: Path):
    (tmp_path / "ca.pem").touch()
    credentials = "sentinel_username=u&sentinel_password=p%26q"
    address = parse_address(
        f"rediss+sentinel://:secret@one/feed?{credentials}&ssl_ca_certs={tmp_path}/ca.pem"
    )
    encryption = {"ssl": True, "ssl_ca_certs": f"{tmp_path}/ca.pem"}
    assert isinstance(address, SentinelAddress)
    assert address.options == {"password": "secret", **encryption}
    assert address.sentinel_options == {"username": "u", "password": "p&q", **encryption}


def test_a_cluster_url_lists_some_of_its_nodes():
    assert parse_address("redis+cluster://user:pass@one:1,two") == ClusterAddress(
        (("one", 1), ("two", 6379)), {"username": "user", "password": "pass"}
    )
    assert parse_address("rediss+cluster://one/") == ClusterAddress((("one", 6379),), {"ssl": True})


@pytest.mark.parametrize(
    "url",
    [
        "redis://one/feed",
        "rediss://one:6379/-1",
        "redis+sentinel://one",  # which primary?
        "redis+sentinel:///feed",
        "redis+sentinel://one,/feed",
        "redis+sentinel://one/feed/first",
        "redis+sentinel://one:port/feed",
        "redis+cluster://",
        "redis+cluster://one/1",
        "redis+cluster://one:99999",
        "redis+magic://one",
        "unix+cluster:///run/redis.sock",
        "sider://one",
    ],
)
def test_an_incomplete_url_is_refused(url: str):
    with pytest.raises(ValueError, match=r"."):
        parse_address(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:secret@host?no_such_option=1",
        "redis+sentinel://:secret@host/feed?no_such_option=1",
        "redis+sentinel://:secret@host/",
        "redis+cluster://:secret@host?no_such_option=1",
        "redis+cluster://:secret@host?db=1",
    ],
)
def test_a_url_that_the_client_cannot_use_is_refused_before_connecting_without_its_secret(url: str):
    with pytest.raises(ConfigurationError, match=r"cache\.url") as refused:
        open_redis(settings(url))
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("scheme", ["redis://host", "redis+sentinel://host/feed", "redis+cluster://host"])
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("client_name", "two%20words"),
        ("client_name", "caf%C3%A9"),
        ("credential_provider", "secret"),
        ("health_check_interval", "often"),
        ("no_such_option", "secret"),
        ("parser_class", "secret"),
        ("redis_connect_func", "secret"),
        ("socket_keepalive_options", "secret"),
        ("socket_read_size", "0"),
        ("socket_type", "secret"),
        ("ssl_ca_certs", "/no/such/file"),
    ],
)
def test_an_unusable_option_is_refused_by_name_before_connecting(scheme: str, option: str, value: str):
    with pytest.raises(ConfigurationError, match=rf"cache\.url: .*{option}") as refused:
        open_redis(settings(f"{scheme}?client_name=feed&{option}={value}"))
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("scheme", ["rediss://host", "rediss+sentinel://host/feed", "rediss+cluster://host"])
@pytest.mark.parametrize("option", ["ssl_ciphers=secret", "ssl_min_version=7", "ssl_ca_data=secret"])
def test_unusable_tls_options_are_refused(scheme: str, option: str):
    with pytest.raises(ConfigurationError, match=r"cache\.url: the ssl_ options"):
        open_redis(settings(f"{scheme}?{option}"))


@pytest.mark.parametrize(
    "option",
    ["encoding=nope", "encoding_errors=nope", "max_connections=many", "lib_name=a%20b", "timeout=soon"],
)
async def test_options_that_the_server_sets_itself_are_ignored_in_the_url(redis_url: str, option: str):
    mark = "&" if "?" in redis_url else "?"
    client = open_redis(settings(f"{redis_url}{mark}client_name=feed&{option}"))
    await client.set("key", "value")
    name = await client.client_getname()
    await close_redis(client)
    assert name == "feed"


def test_every_url_scheme_that_the_settings_accept_can_be_opened():
    for scheme in REDIS_SCHEMES:
        rest = {"unix://": "/run/redis.sock", "sentinel://": "host/feed"}
        place = next((part for ending, part in rest.items() if scheme.endswith(ending)), "127.0.0.1")
        open_redis(settings(scheme + place))
    with pytest.raises(ValidationError, match=r"redis\+cluster"):
        settings("redis+magic://host")


async def test_redis_calls_are_never_retried_whatever_the_url_says():
    options = "socket_connect_timeout=60&max_connections=1&decode_responses=true&protocol=3"
    for url, pool_class in (
        (f"rediss://host?{options}&timeout=60", BlockingConnectionPool),
        (f"rediss+sentinel://host/feed?{options}", SentinelConnectionPool),
    ):
        client = open_redis(settings(url))
        assert isinstance(client, Redis)
        pool = client.connection_pool
        assert isinstance(pool, pool_class)
        connection = pool.make_connection()
        assert isinstance(connection, SSLConnection)
        assert connection.retry.get_retries() == 0
        assert (connection.socket_timeout, connection.socket_connect_timeout) == (None, 1.0)
        assert (pool.max_connections, connection.protocol) == (16, 2)
        await close_redis(client)


async def test_an_unreachable_cluster_fails_at_once():
    client = open_redis(settings("redis+cluster://127.0.0.1:1?socket_connect_timeout=60"))
    assert isinstance(client, RedisCluster)
    assert client.retry.get_retries() == 0
    async with asyncio.timeout(HANG_TIMEOUT):
        with pytest.raises(Exception, match="cannot be connected"):
            await client.get("key")
    await close_redis(client)


def settings(url: str) -> CacheSettings:
    return CacheSettings(url=SecretStr(url))
