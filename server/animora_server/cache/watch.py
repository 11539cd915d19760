"""Which generation is current, looked up in the background so that no request has to."""

from types import TracebackType
from typing import Self

import structlog

from animora_server.background import BackgroundLoop
from animora_server.cache.errors import UnreadableValue
from animora_server.cache.generation_record import decode_generation
from animora_server.cache.keys import current_generation_key
from animora_server.cache.lookups import NoAnswer
from animora_server.cache.shared_redis import SharedRedis
from animora_server.cache.writes import Write
from animora_server.metrics import CacheMetrics
from animora_server.types import Generation

RECORD_BYTES = 1024  # of a record, roughly

log = structlog.get_logger(__name__)


class GenerationWatch:
    """Knows the current generation as of `interval` seconds ago, or when Redis last answered.

    Use it as an async context manager; it looks once on entering, and then in the background.
    """

    def __init__(self, redis: SharedRedis, interval: float, metrics: CacheMetrics) -> None:
        self._redis = redis
        self._interval = interval
        self._metrics = metrics
        self._look_ups = metrics.lookups["generation"]
        self._key = current_generation_key(redis.prefix)
        self._current: Generation | None = None
        self.loop = BackgroundLoop("generation-watch", self._look)

    @property
    def current(self) -> Generation | None:
        """The generation that timelines are served from, None where there is none."""
        return self._current

    async def __aenter__(self) -> Self:
        """Looks, for the cache's timeout at most."""
        await self._look()
        self.loop.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Looks no more."""
        await self.loop.stop()

    async def _look(self) -> float:
        found = await self._redis.find((self._key,), RECORD_BYTES)
        if isinstance(found, NoAnswer):
            self._look_ups[found.value].inc()
            return self._interval  # its lists cannot be read either; they are still there when Redis is back
        (value,) = found
        generation = None if value is None else self._read(value)
        self._look_ups["miss" if generation is None else "hit"].inc()
        if generation != self._current:
            self._current = generation
            self._metrics.generation(None if generation is None else generation.made_at)
            log.info("generation", id=None if generation is None else generation.generation_id.hex())
        return self._interval

    def _read(self, value: bytes) -> Generation | None:
        try:
            return decode_generation(value)
        except UnreadableValue:
            self._look_ups["unreadable"].inc()
            self._redis.write(Write(self._key, None))
            return None
