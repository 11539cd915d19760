"""A Redis client that fails fast: redis-py's defaults retry for seconds."""

from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from animora_server.errors import ConfigurationError
from animora_server.settings import CacheSettings

CONNECT_TIMEOUT = 1.0  # seconds; connections are made outside of requests where that can be arranged


def open_redis(settings: CacheSettings) -> Redis:
    """A client for the URL in the settings; it connects at its first command.

    Commands have no timeout of their own, for redis-py would start a task to watch over each: whoever awaits
    one bounds it.

    Raises:
        ConfigurationError: The URL cannot be used.
    """
    try:
        # Redis.from_url would let the URL's own options win over these.
        options: dict[str, Any] = dict(parse_url(settings.url.get_secret_value()))
        options |= {
            "max_connections": settings.max_connections,
            "timeout": CONNECT_TIMEOUT,
            "socket_connect_timeout": CONNECT_TIMEOUT,
            "socket_timeout": None,
            "retry": Retry(NoBackoff(), 0),
            "decode_responses": False,
            "protocol": 2,  # 3 adds a round trip to each connection for nothing that is used here
        }
        pool = BlockingConnectionPool(**options)
        pool.connection_class(**pool.connection_kwargs)  # connects nothing; finds options that do not exist
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            "cache.url: not a URL that Redis' client understands, such as redis://host:6379/0"
        ) from error
    return Redis.from_pool(pool)
