"""The client of Redis that all caches share: batched look-ups, queued writes, a circuit breaker."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import structlog
from redis.asyncio import Redis, RedisCluster
from redis.exceptions import ConnectionError, OutOfMemoryError, ResponseError  # not the built-in one

from animora_server.background import BackgroundLoop, Backoff
from animora_server.cache.connection import (
    CONNECT_TIMEOUT,
    REDIS_FAILED,
    close_redis,
    drop_connections,
    open_redis,
    probe_keys,
    read_values,
    single_connection_client,
)
from animora_server.cache.queues import Found, LookupBatcher, NoAnswer, Outcome, Write, WriteQueue
from animora_server.observability.metrics import CacheMetrics
from animora_server.settings import CacheSettings

FAILURES_TO_OPEN = 3
RECOVERY_INTERVAL = 1.0  # seconds between checks of the breaker
RECOVERY_BACKOFF = Backoff(first=0.05)
RECONNECT_BACKOFF = Backoff(first=0.05)
FULL_FOR = 1.0  # seconds after a refused write for which other processes' writes count as refused, too
WRITE_TIMEOUT = 1.0  # seconds for a batch of writes

log = structlog.get_logger(__name__)


class CircuitBreaker:
    """Opens after `threshold` failures in a row. Only `close` closes it, after a probe outside of requests.

    It has no clock and starts no task.
    """

    def __init__(self, threshold: int) -> None:
        self._threshold = threshold
        self._failures = 0
        self._is_open = True

    @property
    def is_open(self) -> bool:
        """Whether Redis must not be used. True until the first `close`."""
        return self._is_open

    def succeeded(self) -> None:
        """Records a success. It does not close an open breaker, since the call may have begun before."""
        self._failures = 0

    def failed(self) -> bool:
        """Records a failure. Returns whether it opened the breaker."""
        self._failures += 1
        opens = not self._is_open and self._failures >= self._threshold
        self._is_open = self._is_open or opens
        return opens

    def open(self) -> None:
        """Opens the breaker."""
        self._is_open = True

    def close(self) -> None:
        """Closes the breaker after a successful probe."""
        self._failures = 0
        self._is_open = False


class RedisCache:
    """Bytes by key in Redis, best effort: no call raises, and no call takes longer than the timeout.

    Use it as an async context manager. While Redis is down, at the start or later, look-ups are skipped and
    writes dropped; a background loop probes Redis with growing pauses.
    """

    def __init__(self, settings: CacheSettings, metrics: CacheMetrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._prefix = f"{settings.prefix}:".encode()
        self._breaker = CircuitBreaker(FAILURES_TO_OPEN)
        self._lookups = LookupBatcher(self._fetch, settings.timeout)
        self._writes = WriteQueue(self._send)
        self._client: Redis | RedisCluster
        self._reader: Redis | RedisCluster
        self._unavailable_since = 0.0  # on the event loop's clock; valid while the breaker is open
        self._full_until = float("-inf")  # on the event loop's clock
        self._refusals = 0  # consecutive batches with refused writes
        self._reconnect_at = float("-inf")  # on the event loop's clock: the earliest time
        self._breaker_opened = asyncio.Event()
        self.recovery = BackgroundLoop(
            "cache-recovery",
            self._recover,
            expected=REDIS_FAILED,
            backoff=RECOVERY_BACKOFF,
            wake=self._breaker_opened,
        )

    async def __aenter__(self) -> Self:
        """Connects, if Redis answers within a second.

        Raises:
            ConfigurationError: The URL cannot be used.
        """
        self._client = open_redis(self._settings)
        self._reader = single_connection_client(self._client)
        self._metrics.breaker_open.set(1)
        try:
            await self._probe()
        except REDIS_FAILED as error:
            self._open_breaker(error)
        else:
            self._close_breaker()
        self.recovery.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drops queued writes and disconnects. Does not wait for a Redis that does not answer."""
        self._breaker.open()
        await self.recovery.stop()
        await self._lookups.aclose()
        await self._writes.aclose()
        try:
            try:
                if self._reader is not self._client:
                    await self._reader.aclose()
            finally:
                await close_redis(self._client)
        except REDIS_FAILED:
            log.info("cache_close_failed")

    @property
    def prefix(self) -> bytes:
        """The prefix of every key."""
        return self._prefix

    @property
    def unavailable_for(self) -> float:
        """Seconds since the breaker opened; 0 while it is closed."""
        return asyncio.get_running_loop().time() - self._unavailable_since if self._breaker.is_open else 0.0

    @property
    def is_full(self) -> bool:
        """Whether Redis was out of memory for a write of this process in the last FULL_FOR seconds."""
        return asyncio.get_running_loop().time() < self._full_until

    def lookup_deadline(self) -> float:
        """The deadline of a look-up that begins now, on the event loop's clock."""
        return self._lookups.lookup_deadline()

    def find(self, keys: Sequence[bytes], size: int, until: float | None = None) -> "asyncio.Future[Found]":
        """Looks up keys. The future gives the value of each key, None for a missing one, or NoAnswer.

        Args:
            keys: A few; in a Cluster preferably of one slot.
            size: Expected size of all values in bytes.
            until: The deadline, on the event loop's clock; default `lookup_deadline()`. Dependent look-ups
                share one deadline.
        """
        if self._breaker.is_open:
            skipped: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
            skipped.set_result(NoAnswer.SKIPPED)
            return skipped
        return self._lookups.find(keys, size, until)

    def write(self, write: Write) -> None:
        """Queues a write; drops it if the breaker is open or the queue is full."""
        self._offer(write, None)

    async def store(self, *writes: Write) -> bool:
        """Writes in the given order. Returns whether all writes are known to be stored within the timeout."""
        loop = asyncio.get_running_loop()
        outcomes: list[Outcome] = [loop.create_future() for _ in writes]
        if not all(self._offer(write, outcome) for write, outcome in zip(writes, outcomes, strict=True)):
            return False
        _, late = await asyncio.wait(outcomes, timeout=self._settings.timeout)
        return not late and all(outcome.result() for outcome in outcomes)

    def _offer(self, write: Write, outcome: Outcome | None) -> bool:
        taken = not self._breaker.is_open and self._writes.offer(write, outcome)
        if not taken and write.value is not None:
            self._metrics.writes["dropped"].inc()
        return taken

    async def _fetch(self, keys: list[bytes]) -> list[bytes | None] | None:
        """One round trip; None if Redis did not answer."""
        if self._breaker.is_open:
            return None
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._settings.timeout):
                try:
                    values = await read_values(self._reader, keys)
                except ConnectionError:  # the server may have closed an idle connection
                    values = await read_values(self._reader, keys)
        except REDIS_FAILED as error:
            self._record_failure(error)
            return None
        self._metrics.round_trip.observe(time.perf_counter() - started)
        self._breaker.succeeded()
        return values

    async def _send(self, writes: list[Write]) -> list[bool]:
        """Sends a batch of writes in order. Returns for each whether it was stored; failures are counted."""
        pipeline = self._client.pipeline(transaction=False)
        for write in writes:
            if write.value is None:
                pipeline.delete(write.key)
            else:
                pipeline.set(write.key, write.value, px=write.ttl_ms)
        try:
            async with asyncio.timeout(WRITE_TIMEOUT):
                replies = await pipeline.execute(raise_on_error=False)
        except REDIS_FAILED as error:
            replies = [error] * len(writes)
            self._record_failure(error)
        # A Redis that is full or read-only refuses single writes but still answers look-ups.
        done = [not isinstance(reply, Exception) for reply in replies]
        await self._reconnect_if_refused(replies)
        for write, stored in zip(writes, done, strict=True):
            if write.value is not None:
                self._metrics.writes["stored" if stored else "error"].inc()
        return done

    async def _reconnect_if_refused(self, replies: Sequence[object]) -> None:
        """Drops the connections after a refused write, at growing intervals.

        The server may have become a replica, and another one the primary.
        """
        refusals = [each for each in replies if isinstance(each, ResponseError)]
        if not refusals:
            self._refusals, self._full_until = 0, float("-inf")
            return
        now = asyncio.get_running_loop().time()
        if isinstance(refusals[0], OutOfMemoryError):
            self._full_until = now + FULL_FOR
            return  # a full Redis is still the primary
        if now < self._reconnect_at:
            return
        self._refusals += 1
        self._reconnect_at = now + RECONNECT_BACKOFF.delay(self._refusals)
        if self._refusals == 1:
            log.warning(
                "cache refuses writes; reconnecting",
                error=f"{type(refusals[0]).__name__}: {refusals[0]}",
            )
        with suppress(*REDIS_FAILED):
            await drop_connections(self._client)

    def _record_failure(self, error: Exception) -> None:
        if self._breaker.failed():
            self._open_breaker(error)

    def _open_breaker(self, error: Exception) -> None:
        log.warning("cache_unavailable", error=f"{type(error).__name__}: {error}")
        self._metrics.breaker_open.set(1)
        self._unavailable_since = asyncio.get_running_loop().time()
        self._breaker_opened.set()

    def _close_breaker(self) -> None:
        self._metrics.breaker_open.set(0)
        self._breaker.close()

    async def _recover(self) -> float:
        """Probes Redis if the breaker is open."""
        if not self._breaker.is_open:
            return RECOVERY_INTERVAL
        self._breaker_opened.clear()
        await asyncio.sleep(RECOVERY_BACKOFF.delay(1))
        await self._probe()
        self._close_breaker()
        log.info("cache_available")
        return RECOVERY_INTERVAL

    async def _probe(self) -> None:
        """Makes a look-up. A PING would succeed without the right to read keys, too."""
        async with asyncio.timeout(CONNECT_TIMEOUT):
            await drop_connections(self._client)
            await read_values(self._reader, probe_keys(self._client, self._prefix))
