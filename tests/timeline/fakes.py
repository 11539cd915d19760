"""Fakes for timelines: a clock, a model, a serving state, a store that records calls."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf

import numpy as np

from animora_server.catalog import CatalogSnapshot
from animora_server.errors import DeadlineUnreachable, ScoringFailed
from animora_server.scoring.serving_state import ServingState
from animora_server.scoring.terms import MODEL_TERMS
from animora_server.timeline import LocalTimelineStore
from animora_server.types import BoolArray, FloatArray, IntArray, RankedTimeline
from tests.ranker.catalogs import NOW


@dataclass
class Clock:
    """A clock that tests set, in Unix seconds."""

    now: float = NOW

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeModel:
    """Scores posts by id with given logits, 0 where there is none; knows users below 100.

    Attributes:
        state: The serving state whose catalog rows it scores.
        logits: By post id.
        version: Its name.
        featureless: Posts without features.
        failure: The error that it raises.
        gate: An event that it waits for.
        background_gate: An event that it waits for when there is no deadline.
        least_time: Seconds that it needs before a deadline.
    """

    state: "FakeStateSource"
    logits: dict[int, float]
    version: str = "v1"
    failure: ScoringFailed | None = None
    gate: asyncio.Event | None = None
    background_gate: asyncio.Event | None = None
    featureless: set[int] = field(default_factory=set)
    least_time: float = 0.0
    deadlines: list[float | None] = field(default_factory=list)
    called: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def calls(self) -> int:
        """The number of calls of `score`."""
        return len(self.deadlines)

    def user_row(self, user_id: int) -> int:
        return user_id if 0 < user_id < 100 else 0

    def user_rows(self, user_ids: IntArray) -> IntArray:
        return np.array([self.user_row(user) for user in user_ids.tolist()])

    def has_features(self, rows: IntArray) -> BoolArray:
        return ~np.isin(self.state.snapshot.post_ids[rows], list(self.featureless))

    def score(self, user_row: int, rows: IntArray, deadline: float | None) -> "asyncio.Future[FloatArray]":
        return asyncio.ensure_future(self._score(rows, deadline))

    def score_all(
        self, user_rows: IntArray, sizes: IntArray, rows: IntArray, deadline: float
    ) -> "asyncio.Future[FloatArray]":
        return self.score(int(user_rows[0]), rows, deadline)

    async def _score(self, rows: IntArray, deadline: float | None) -> FloatArray:
        self.deadlines.append(deadline)
        self.called.set()
        if deadline is not None and deadline - asyncio.get_running_loop().time() < self.least_time:
            raise DeadlineUnreachable
        gate = self.background_gate if deadline is None and self.background_gate else self.gate
        if gate is not None:
            await gate.wait()
        if self.failure is not None:
            raise self.failure
        posts = self.state.snapshot.post_ids[rows].tolist()
        return np.array([self.logits.get(post, 0.0) for post in posts], np.float32)

    async def explain(self, user_row: int, rows: IntArray, deadline: float) -> FloatArray:
        values = await self.score(user_row, rows, deadline)
        terms = np.zeros((len(rows), len(MODEL_TERMS)), np.float32)
        terms[:, -1] = values
        return terms


@dataclass
class FakeStateSource:
    """A ServingStateSource whose serving state a test can change."""

    snapshot: CatalogSnapshot
    active: FakeModel | None = None
    resident: Mapping[str, FakeModel] = field(default_factory=dict)

    def current(self) -> ServingState:
        return ServingState(self.snapshot, self.active, self.resident)

    def activate(self, logits: dict[int, float], version: str = "v1") -> FakeModel:
        """Makes another model active."""
        self.active = FakeModel(self, logits, version)
        self.resident = {**self.resident, version: self.active}
        return self.active


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
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

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
        async with self.changed:
            self.kept.append(snapshot)
            self.changed.notify_all()
        return taken

    async def put_latest(self, key: bytes, snapshot: RankedTimeline) -> bool:
        if self.admission is not None:
            await self.admission.wait()
        taken = self.takes and await self.store.put_latest(key, snapshot)
        async with self.changed:
            self.put_as_latest.append(snapshot)
            self.changed.notify_all()
        return taken

    async def until_put(self, count: int) -> None:
        """Waits until `count` timelines were put."""
        async with self.changed:
            await self.changed.wait_for(lambda: len(self.kept) >= count)

    async def until_latest(self, count: int) -> None:
        """Waits until `count` timelines were put as latest."""
        async with self.changed:
            await self.changed.wait_for(lambda: len(self.put_as_latest) >= count)


@dataclass
class Refreshes:
    """Records the reasons of background refreshes."""

    why: list[str] = field(default_factory=list)

    def refreshed(self, why: str) -> None:
        self.why.append(why)
