"""A generation store with retries, which bridges a short outage of Redis."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import structlog

from animora_server.errors import StoreError
from animora_server.precompute.protocols import GenerationStore
from animora_server.types import Generation, IntArray, RankedTimeline

log = structlog.get_logger(__name__)

Value = TypeVar("Value")

DELAYS = (0.1, 0.3, 1.0, 3.0, 10.0)  # seconds before each retry; enough for a failover


class RetryingGenerationStore:
    """Retries failed calls of a store; see protocols.GenerationStore.

    Before the first answer nothing is retried: the address of a store that has never answered may be wrong.

    Args:
        store: The store.
        delays: Seconds before each retry; after the last one the failure is raised.
    """

    def __init__(self, store: GenerationStore, delays: Sequence[float] = DELAYS) -> None:
        self._store = store
        self._delays = delays
        self._has_answered = False

    async def current(self) -> Generation | None:
        """See GenerationStore."""
        return await self._with_retries(self._store.current)

    async def building(self) -> Generation | None:
        """See GenerationStore."""
        return await self._with_retries(self._store.building)

    async def begin(self, generation: Generation) -> Generation:
        """See GenerationStore."""
        return await self._with_retries(lambda: self._store.begin(generation))

    async def abandon(self, generation: Generation) -> None:
        """See GenerationStore."""
        await self._with_retries(lambda: self._store.abandon(generation))

    async def intersect_posts(self, generation: Generation, post_ids: IntArray) -> None:
        """See GenerationStore."""
        await self._with_retries(lambda: self._store.intersect_posts(generation, post_ids))

    async def are_stored(self, generation: Generation, keys: Sequence[bytes]) -> list[bool]:
        """See GenerationStore."""
        return await self._with_retries(lambda: self._store.are_stored(generation, keys))

    async def put(self, generation: Generation, timelines: Sequence[tuple[bytes, RankedTimeline]]) -> int:
        """See GenerationStore."""
        return await self._with_retries(lambda: self._store.put(generation, timelines))

    async def finish_shard(self, generation: Generation, shard: int) -> bool:
        """See GenerationStore."""
        return await self._with_retries(lambda: self._store.finish_shard(generation, shard))

    async def retire(self, generation: Generation) -> int:
        """See GenerationStore."""
        return await self._with_retries(lambda: self._store.retire(generation))

    async def _with_retries(self, call: Callable[[], Awaitable[Value]]) -> Value:
        for delay in self._delays if self._has_answered else ():
            try:
                return await call()
            except StoreError as error:
                log.warning("Redis call failed; retrying", error=str(error), seconds=delay)
                await asyncio.sleep(delay)
        answer = await call()
        self._has_answered = True
        return answer
