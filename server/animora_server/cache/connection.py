"""A Redis client that fails fast, for a single server, Sentinels or a Cluster.

redis-py's defaults retry for seconds.
"""

from dataclasses import replace
from typing import Any, cast

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster, Sentinel, SentinelConnectionPool
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError

from animora_server.cache.address import (
    Address,
    ClusterAddress,
    SentinelAddress,
    SingleAddress,
    UnusableOption,
    parse_address,
)
from animora_server.cache.credentials import with_password_file
from animora_server.errors import ConfigurationError
from animora_server.settings import CacheSettings

CONNECT_TIMEOUT = 1.0  # seconds; connections are mostly made outside of requests
SENTINEL_TIMEOUT = 0.25  # seconds; one attempt to connect may ask several Sentinels in turn
CLUSTER_PROBES = 64  # keys, each in a random slot: they reach every primary of all but the largest Clusters

# The errors of a Redis that is slow, frozen, full or gone. TimeoutError is an OSError.
REDIS_FAILED = (RedisError, RedisClusterException, OSError)


def open_redis(settings: CacheSettings, command_timeout: float | None = None) -> Redis | RedisCluster:
    """Creates a client for the URL in the settings. It connects at its first command.

    Args:
        settings: The URL and the number of connections.
        command_timeout: Seconds; None if the caller bounds each command. redis-py's own timeout costs a task
            for each command.

    Raises:
        ConfigurationError: The URL, one of its options or a password file cannot be used.
    """
    try:
        address = _with_password_files(parse_address(settings.url.get_secret_value()), settings)
        # These override options of the URL.
        ours: dict[str, Any] = {
            "max_connections": settings.max_connections,
            "socket_connect_timeout": CONNECT_TIMEOUT,
            "socket_timeout": command_timeout,
            "retry": Retry(NoBackoff(), 0),
            "decode_responses": False,
            "protocol": 2,  # 3 costs a round trip for each connection, and none of it is used here
            "driver_info": None,  # otherwise sent by CLIENT SETINFO, which Redis 7.0 does not know
        }
        match address:
            case SingleAddress(options):
                if options.get("connection_class") is SSLConnection:
                    _check_encryption(options)
                return _checked_client(
                    BlockingConnectionPool(**options | ours | {"timeout": CONNECT_TIMEOUT})
                )
            case SentinelAddress(sentinels, service, options, sentinel_options):
                _check_encryption(options)
                watchers = Sentinel(  # type: ignore[no-untyped-call]  # untyped in redis-py
                    sentinels, sentinel_kwargs=sentinel_options | _sentinel_limits(ours)
                )
                return _checked_client(
                    SentinelConnectionPool(service, watchers, **options | ours)  # type: ignore[no-untyped-call]
                )
            case ClusterAddress(nodes, options):
                _check_encryption(options)
                seeds = [ClusterNode(host, port) for host, port in nodes]
                return RedisCluster(startup_nodes=seeds, **options | ours)
    except UnusableOption as error:
        raise ConfigurationError(f"cache.url: {error}") from error
    except (TypeError, ValueError, RedisError, RedisClusterException) as error:
        raise ConfigurationError(
            "cache.url: not a URL that Redis' client understands, such as redis://host:6379/0"
        ) from error


def single_connection_client(client: Redis | RedisCluster) -> Redis | RedisCluster:
    """A client for sequential commands: with a single connection, three times as fast as with a pool.

    With Sentinels or a Cluster it is the client itself, whose pool follows a failover.
    """
    if isinstance(client, Redis) and isinstance(client.connection_pool, BlockingConnectionPool):
        return client.client()
    return client


async def read_values(client: Redis | RedisCluster, keys: list[bytes]) -> list[bytes | None]:
    """The value of each key: one round trip, or in a Cluster one to each node, concurrently.

    Raises:
        REDIS_FAILED: Some of the keys have no answer.
    """
    if isinstance(client, Redis):
        return cast(list[bytes | None], await client.mget(keys))
    slots: dict[int, list[int]] = {}
    for position, key in enumerate(keys):
        slots.setdefault(client.keyslot(key), []).append(position)
    pipeline = client.pipeline()
    for positions in slots.values():
        # RedisCluster.mget refuses keys of several slots; each MGET here has the keys of one.
        pipeline.execute_command("MGET", *(keys[position] for position in positions))
    values: list[bytes | None] = [None] * len(keys)
    for positions, reply in zip(slots.values(), await pipeline.execute(), strict=True):
        for position, value in zip(positions, reply, strict=True):
            values[position] = value
    return values


def probe_keys(client: Redis | RedisCluster, prefix: bytes) -> list[bytes]:
    """Keys whose look-up shows whether every node of Redis answers."""
    if isinstance(client, Redis):
        return [prefix + b"probe"]
    return [prefix + b"probe:%d" % number for number in range(CLUSTER_PROBES)]


async def drop_connections(client: Redis | RedisCluster) -> None:
    """Closes every connection, so that the next command resolves the address again.

    After a failover, an open connection still leads to the old primary: names are resolved, and Sentinels
    queried, only when a connection is made. Pipelines of a Cluster never refresh its list of nodes.

    Raises:
        REDIS_FAILED: A connection could not be closed.
    """
    if isinstance(client, RedisCluster):
        await client.aclose()
    else:
        await client.connection_pool.disconnect()


async def close_redis(client: Redis | RedisCluster) -> None:
    """Disconnects.

    Raises:
        REDIS_FAILED: A connection could not be closed.
    """
    await client.aclose()
    if isinstance(client, RedisCluster):
        # After the loss of a node, aclose of the client takes all connections for closed.
        await client.nodes_manager.aclose()
    elif isinstance(client.connection_pool, SentinelConnectionPool):
        for sentinel in client.connection_pool.sentinel_manager.sentinels:
            await sentinel.aclose()


def _with_password_files(address: Address, settings: CacheSettings) -> Address:
    """The address with the passwords of the files in the settings. Raises ConfigurationError."""
    own, sentinels = settings.password_file, settings.sentinel_password_file
    options = with_password_file(address.options, "cache.password_file", own)
    if isinstance(address, SentinelAddress):
        watchers = with_password_file(address.sentinel_options, "cache.sentinel_password_file", sentinels)
        return replace(address, options=options, sentinel_options=watchers)
    if sentinels is not None:
        raise ConfigurationError("cache.sentinel_password_file: cache.url names no Sentinels")
    return replace(address, options=options)


def _sentinel_limits(ours: dict[str, Any]) -> dict[str, Any]:
    return {
        "socket_connect_timeout": SENTINEL_TIMEOUT,
        "socket_timeout": SENTINEL_TIMEOUT,
        "retry": ours["retry"],
        "protocol": ours["protocol"],
        "driver_info": ours["driver_info"],
    }


def _check_encryption(options: dict[str, Any]) -> None:
    """Sets up TLS once, which redis-py does only when it connects. Raises UnusableOption."""
    names = {name: value for name, value in options.items() if name.startswith("ssl_")}
    try:
        SSLConnection(**names).ssl_context.get()
    except (OSError, TypeError, ValueError, RedisError) as error:
        raise UnusableOption(f"the ssl_ options cannot be used: {error}") from error


def _checked_client(pool: BlockingConnectionPool | SentinelConnectionPool) -> Redis:
    pool.connection_class(**pool.connection_kwargs)  # does not connect; raises for unknown options
    return Redis.from_pool(pool)
