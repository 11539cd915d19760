"""Fakes for timelines: a store and a counter of refreshes that record calls."""

import asyncio
from dataclasses import dataclass, field
from math import inf

from animora_server.timeline import LocalTimelineStore
from animora_server.types import RankedTimeline
from tests.support.until import until


@dataclass
class CountingStore:
    """A local store that records calls; with `takes` false it stores nothing."""

    store: LocalTimelineStore
    latest_calls: int = 0
    kept: list[RankedTimeline] = field(default_factory=list)
    put_as_latest: list[RankedTimeline] = field(default_factory=list)
    takes: bool = True
    admission: asyncio.Event | None = None
    answer_by: float = inf
    written_by: float = -inf

    async def latest(self, key: bytes, answer_by: float = inf) -> RankedTimeline | None:
        self.latest_calls += 1
        self.answer_by = answer_by
        return await self.store.latest(key)

    async def by_id(
        self, key: bytes, timeline_id: bytes, answer_by: float = inf, written_by: float = -inf
    ) -> RankedTimeline | None:
        self.answer_by, self.written_by = answer_by, written_by
        return await self.store.by_id(key, timeline_id, answer_by, written_by)

    async def put(self, key: bytes, snapshot: RankedTimeline) -> bool:
        taken = self.takes and await self.store.put(key, snapshot)
        self.kept.append(snapshot)
        return taken

    async def put_latest(self, key: bytes, snapshot: RankedTimeline) -> bool:
        if self.admission is not None:
            await self.admission.wait()
        taken = self.takes and await self.store.put_latest(key, snapshot)
        self.put_as_latest.append(snapshot)
        return taken

    async def until_put(self, count: int) -> None:
        """Waits until `count` timelines were put."""
        await until(lambda: len(self.kept) >= count)

    async def until_latest(self, count: int) -> None:
        """Waits until `count` timelines were put as latest."""
        await until(lambda: len(self.put_as_latest) >= count)


@dataclass
class Refreshes:
    """Records the reasons of background refreshes."""

    why: list[str] = field(default_factory=list)

    def refreshed(self, why: str) -> None:
        self.why.append(why)
