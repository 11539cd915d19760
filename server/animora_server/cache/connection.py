"""A Redis client that fails fast: redis-py's defaults retry for seconds."""

from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster, Sentinel, SentinelConnectionPool
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError

from animora_server.cache.address import Cluster, Single, UnusableOption, Watched, parse_address
from animora_server.errors import ConfigurationError
from animora_server.settings import CacheSettings

CONNECT_TIMEOUT = 1.0  # seconds; connections are made outside of requests where that can be arranged
SENTINEL_TIMEOUT = 0.25  # seconds; several may be asked in turn within one attempt to connect

# What a Redis that is slow, frozen, full or gone looks like; TimeoutError is an OSError.
REDIS_FAILED = (RedisError, RedisClusterException, OSError)


def open_redis(settings: CacheSettings, command_timeout: float | None = None) -> Redis | RedisCluster:
    """A client for the URL in the settings; it connects at its first command.

    Args:
        settings: Where Redis is.
        command_timeout: Seconds; None where whoever awaits a command bounds it, for redis-py starts a task to
            watch over each.

    Raises:
        ConfigurationError: The URL cannot be used.
    """
    try:
        address = parse_address(settings.url.get_secret_value())
        # The URL's own options must not win over these.
        ours: dict[str, Any] = {
            "max_connections": settings.max_connections,
            "socket_connect_timeout": CONNECT_TIMEOUT,
            "socket_timeout": command_timeout,
            "retry": Retry(NoBackoff(), 0),
            "decode_responses": False,
            "protocol": 2,  # 3 adds a round trip to each connection for nothing that is used here
            "driver_info": None,  # else told by CLIENT SETINFO, which Redis 7.0 does not know
        }
        match address:
            case Single(options):
                if options.get("connection_class") is SSLConnection:
                    _check_encryption(options)
                return _checked(BlockingConnectionPool(**options | ours | {"timeout": CONNECT_TIMEOUT}))
            case Watched(sentinels, service, options, sentinel_options):
                _check_encryption(options)
                watchers = Sentinel(  # type: ignore[no-untyped-call]  # redis-py leaves it so
                    sentinels, sentinel_kwargs=sentinel_options | _patience(ours)
                )
                return _checked(
                    SentinelConnectionPool(service, watchers, **options | ours)  # type: ignore[no-untyped-call]
                )
            case Cluster(nodes, options):
                _check_encryption(options)
                seeds = [ClusterNode(host, port) for host, port in nodes]
                return RedisCluster(startup_nodes=seeds, **options | ours)
    except UnusableOption as error:
        raise ConfigurationError(f"cache.url: {error}") from error
    except (TypeError, ValueError, RedisError, RedisClusterException) as error:
        raise ConfigurationError(
            "cache.url: not a URL that Redis' client understands, such as redis://host:6379/0"
        ) from error


def for_one_at_a_time(client: Redis | RedisCluster) -> Redis | RedisCluster:
    """A client for commands that wait for one another: with one connection, a third of the time of a pool's.

    Where Sentinels or a Cluster tell whom to ask, it is the client itself, whose pool follows what they say.
    """
    if isinstance(client, Redis) and isinstance(client.connection_pool, BlockingConnectionPool):
        return client.client()
    return client


async def drop_connections(client: Redis | RedisCluster) -> None:
    """Closes every connection, so that the next command finds out anew where the address leads.

    After a failover, a connection that lives on leads to the old primary: names are resolved, and Sentinels
    asked, where a connection is made. A Cluster's pipelines never look its nodes up anew by themselves.

    Raises:
        REDIS_FAILED: A connection could not be closed.
    """
    if isinstance(client, RedisCluster):
        await client.aclose()
    else:
        await client.connection_pool.disconnect()


async def close_redis(client: Redis | RedisCluster) -> None:
    """Disconnects; gives up after CONNECT_TIMEOUT.

    Raises:
        REDIS_FAILED: Redis did not let go.
    """
    await client.aclose()
    if isinstance(client, RedisCluster):
        # Of a client that has just lost a node, aclose believes that nothing is open.
        await client.nodes_manager.aclose()
    elif isinstance(client.connection_pool, SentinelConnectionPool):
        for sentinel in client.connection_pool.sentinel_manager.sentinels:
            await sentinel.aclose()


def _patience(ours: dict[str, Any]) -> dict[str, Any]:
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


def _checked(pool: BlockingConnectionPool | SentinelConnectionPool) -> Redis:
    pool.connection_class(**pool.connection_kwargs)  # connects nothing; finds options that do not exist
    return Redis.from_pool(pool)
