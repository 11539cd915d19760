"""A generation store with retries, which bridges a short outage of Redis."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import stamina
import structlog
from stamina.instrumentation import RetryDetails, set_on_retry_hooks

from animora_server.errors import StoreError
from animora_server.precompute.protocols import GenerationStore
from animora_server.types import Generation, IntArray, RankedTimeline

log = structlog.get_logger(__name__)

Value = TypeVar("Value")

# Pauses of 0.1, 0.3, 1, 3 and 10 s, enough for a failover.
RETRY = stamina.AsyncRetryingCaller(
    attempts=6, timeout=None, wait_initial=0.1, wait_max=10.0, wait_jitter=0.0, wait_exp_base=10**0.5
)


def log_retry(details: RetryDetails) -> None:
    """Logs that a call failed and is retried."""
    log.warning(
        "Redis call failed; retrying", error=str(details.caused_by), seconds=round(details.wait_for, 1)
    )


# The defaults would also create a Prometheus counter.
set_on_retry_hooks([log_retry])


class RetryingGenerationStore:
    """Retries failed calls of a store; see protocols.GenerationStore.

    Before the first answer nothing is retried: the address of a store that has never answered may be wrong.

    Args:
        store: The store.
        retry: Calls with retries; after the last one it raises the failure.
    """

    def __init__(self, store: GenerationStore, retry: stamina.AsyncRetryingCaller = RETRY) -> None:
        self._store = store
        self._retry = retry.on(StoreError)
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
        answer = await (self._retry(call) if self._has_answered else call())
        self._has_answered = True
        return answer
