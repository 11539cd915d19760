"""Ranks chunks of users in threads, and stores their timelines while the next chunks are ranked."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Protocol

from animora_server.precompute.protocols import GenerationStore
from animora_server.precompute.rank import ChunkRanker
from animora_server.precompute.rate_limiter import RateLimiter
from animora_server.precompute.scoring import start_thread
from animora_server.precompute.summary import RunTotals
from animora_server.types import Generation, IntArray

# A chunk is ranked whole or not at all. Large enough for one round trip, small enough to lose in a kill.
CHUNK_USERS = 64


class WriteObserver(Protocol):
    """Receives the progress of writing."""

    def advanced(self, chunk: RunTotals) -> None:
        """A chunk is done; its totals."""
        ...


class TimelineWriter:
    """Ranks and stores the timelines of users.

    Args:
        store: The generations.
        generation: The generation being built.
        ranker: Ranks a chunk.
        limiter: Stopped when the run ends early, so that the threads end.
        observer: Receives the progress.
    """

    def __init__(
        self,
        store: GenerationStore,
        generation: Generation,
        ranker: ChunkRanker,
        limiter: RateLimiter,
        observer: WriteObserver,
    ) -> None:
        self._store = store
        self._generation = generation
        self._ranker = ranker
        self._limiter = limiter
        self._observer = observer

    async def write(self, user_ids: IntArray, threads: int, *, look_first: bool) -> RunTotals:
        """Ranks and stores the timelines of users int64 (u), in this order.

        Args:
            user_ids: The users.
            threads: Number of chunks that are ranked at once.
            look_first: Whether to skip chunks whose timelines are all stored.

        Raises:
            StoreError: Redis failed; the timelines stored before are kept.
            DeviceFault: The device failed.
        """
        chunks = (user_ids[start : start + CHUNK_USERS] for start in range(0, len(user_ids), CHUNK_USERS))
        with ThreadPoolExecutor(threads, "rank", initializer=start_thread) as executor:
            # One lane more than threads, so that all threads rank while one lane stores.
            lanes = [
                asyncio.create_task(self._lane(chunks, executor, look_first)) for _ in range(threads + 1)
            ]
            try:
                totals = await asyncio.gather(*lanes)
            finally:
                self._limiter.stop()
                for lane in lanes:
                    lane.cancel()
                await asyncio.gather(*lanes, return_exceptions=True)
        return sum(totals, RunTotals())

    async def _lane(
        self, chunks: Iterator[IntArray], executor: ThreadPoolExecutor, look_first: bool
    ) -> RunTotals:
        """Processes chunks from the shared iterator until it is empty."""
        totals = RunTotals()
        for chunk in chunks:
            if look_first and await self._is_stored(chunk):
                done = RunTotals(kept=len(chunk))
            else:
                done = await self._write(chunk, executor)
            totals += done
            self._observer.advanced(done)
        return totals

    async def _is_stored(self, chunk: IntArray) -> bool:
        keys = [self._ranker.key(user_id) for user_id in chunk.tolist()]
        return all(await self._store.are_stored(self._generation, keys))

    async def _write(self, chunk: IntArray, executor: ThreadPoolExecutor) -> RunTotals:
        ranked = await asyncio.get_running_loop().run_in_executor(executor, self._ranker.rank, chunk)
        began = time.perf_counter()
        stored_bytes = await self._store.put(self._generation, ranked.timelines)
        return replace(ranked.totals, stored_bytes=stored_bytes, writing=time.perf_counter() - began)
