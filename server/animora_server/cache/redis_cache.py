"""One Redis for all that is stored in it: shared look-ups, queued writes, and a breaker for when it fails."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import structlog
from redis.asyncio import Redis, RedisCluster
from redis.exceptions import ConnectionError, OutOfMemoryError, ResponseError  # Redis' own

from animora_server.background import BackgroundLoop, Backoff
from animora_server.cache.circuit_breaker import CircuitBreaker
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
from animora_server.cache.lookups import Found, LookupBatcher, NoAnswer
from animora_server.cache.writes import Outcome, Write, WriteQueue
from animora_server.observability.metrics import CacheMetrics
from animora_server.settings import CacheSettings

FAILURES_TO_OPEN = 3
RECOVERY_INTERVAL = 1.0  # seconds between looks at whether Redis is left alone
RECOVERY_BACKOFF = Backoff(first=0.05)
RECONNECT_BACKOFF = Backoff(first=0.05)
FULL_FOR = 1.0  # seconds after a refused write for which others' writes are taken to be refused, too
WRITE_TIMEOUT = 1.0  # seconds that a batch of writes may take, whoever still waits for it

log = structlog.get_logger(__name__)


class RedisCache:
    """Bytes by key in Redis, best effort: nothing fails, and nobody waits for longer than the timeout.

    Use it as an async context manager. A Redis that is down at the start is tried again like one that
    fails later: outside of requests, with growing pauses, while look-ups are skipped and writes dropped.
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
        self._unavailable_since = 0.0  # on the event loop's clock; of meaning while Redis is left alone
        self._full_until = float("-inf")  # on the event loop's clock
        self._refusals = 0  # batches of writes in a row
        self._reconnect_at = float("-inf")  # on the event loop's clock, not sooner
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
        """Drops what is queued and disconnects, without waiting for a Redis that does not answer."""
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
        """What every key begins with."""
        return self._prefix

    @property
    def unavailable_for(self) -> float:
        """Seconds for which Redis has been left alone; 0 while it is used."""
        return asyncio.get_running_loop().time() - self._unavailable_since if self._breaker.is_open else 0.0

    @property
    def is_full(self) -> bool:
        """Whether Redis refused a write of this process for want of memory, FULL_FOR seconds ago at most."""
        return asyncio.get_running_loop().time() < self._full_until

    def lookup_deadline(self) -> float:
        """When a look-up that begins now has its answer at the latest, on the event loop's clock."""
        return self._lookups.lookup_deadline()

    def find(self, keys: Sequence[bytes], size: int, until: float | None = None) -> "asyncio.Future[Found]":
        """The value of each key, or why there is no answer, to come: after the timeout at the latest.

        Args:
            keys: A few; in a Cluster they cost less where their slot is the same.
            size: Bytes that the values are expected to have together.
            until: When at the latest, on the event loop's clock, if that is sooner: where one look-up follows
                another they share one timeout.
        """
        if self._breaker.is_open:
            skipped: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
            skipped.set_result(NoAnswer.SKIPPED)
            return skipped
        return self._lookups.find(keys, size, until)

    def write(self, write: Write) -> None:
        """Writes some time soon, unless Redis is left alone or too much is queued."""
        self._offer(write, None)

    async def store(self, *writes: Write) -> bool:
        """Writes in the order given; whether all was stored, as far as is known when the timeout ends."""
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
                except ConnectionError:  # it may have been closed while nobody used it
                    values = await read_values(self._reader, keys)
        except REDIS_FAILED as error:
            self._record_failure(error)
            return None
        self._metrics.round_trip.observe(time.perf_counter() - started)
        self._breaker.succeeded()
        return values

    async def _send(self, writes: list[Write]) -> list[bool]:
        """Sends a batch of writes in order; what fails is counted and forgotten."""
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
        # A Redis that is full or read-only refuses writes one by one and still answers look-ups.
        done = [not isinstance(reply, Exception) for reply in replies]
        await self._reconnect_if_refused(replies)
        for write, stored in zip(writes, done, strict=True):
            if write.value is not None:
                self._metrics.writes["stored" if stored else "error"].inc()
        return done

    async def _reconnect_if_refused(self, replies: Sequence[object]) -> None:
        """Drops the connections where a write was refused, unless that was done a moment ago.

        The server may have become a replica, and another one may have taken its place.
        """
        refusals = [each for each in replies if isinstance(each, ResponseError)]
        if not refusals:
            self._refusals, self._full_until = 0, float("-inf")
            return
        now = asyncio.get_running_loop().time()
        if isinstance(refusals[0], OutOfMemoryError):
            self._full_until = now + FULL_FOR
            return  # a full Redis is the right one
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
        """Tries Redis if it is left alone."""
        if not self._breaker.is_open:
            return RECOVERY_INTERVAL
        self._breaker_opened.clear()
        await asyncio.sleep(RECOVERY_BACKOFF.delay(1))
        await self._probe()
        self._close_breaker()
        log.info("cache_available")
        return RECOVERY_INTERVAL

    async def _probe(self) -> None:
        """Does what a look-up does; a PING is answered even where keys may not be read."""
        async with asyncio.timeout(CONNECT_TIMEOUT):
            await drop_connections(self._client)
            await read_values(self._reader, probe_keys(self._client, self._prefix))
