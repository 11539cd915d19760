"""Fake models, and the serving state that holds them."""

import asyncio
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field

import numpy as np

from animora_server.catalog import CatalogSnapshot
from animora_server.errors import DeadlineUnreachable, ScoringFailed
from animora_server.scoring.serving_state import ServingState, ServingStateHolder
from animora_server.scoring.terms import MODEL_TERMS
from animora_server.types import BoolArray, FloatArray, IntArray


@dataclass
class FakeModel:
    """A ScoringModel that knows users below 100; subclasses compute the logits.

    Attributes:
        version: The version's name.
        failure: The error that it raises.
        gate: An event that it waits for.
        deadlines: The deadline of each call of `score` and `score_all`.
        called: Set by each such call.
        works: The future that each such call returned.
        seconds: The time on the device of `score_timed`.
    """

    _: KW_ONLY
    version: str = "v1"
    failure: ScoringFailed | None = None
    gate: asyncio.Event | None = None
    deadlines: list[float | None] = field(default_factory=list)
    called: asyncio.Event = field(default_factory=asyncio.Event)
    works: "list[asyncio.Future[FloatArray]]" = field(default_factory=list)
    seconds: float = 0.001

    @property
    def calls(self) -> int:
        """The number of calls of `score` and `score_all`."""
        return len(self.deadlines)

    def user_row(self, user_id: int) -> int:
        return user_id if 0 < user_id < 100 else 0

    def user_rows(self, user_ids: IntArray) -> IntArray:
        return np.array([self.user_row(user) for user in user_ids.tolist()])

    def score(self, user_row: int, rows: IntArray, deadline: float | None) -> "asyncio.Future[FloatArray]":
        self.works.append(asyncio.ensure_future(self._record_and_score(rows, deadline)))
        return self.works[-1]

    def score_all(
        self, user_rows: IntArray, sizes: IntArray, rows: IntArray, deadline: float
    ) -> "asyncio.Future[FloatArray]":
        assert len(user_rows) == len(sizes)
        assert sizes.sum() == len(rows)
        return self.score(int(user_rows[0]), rows, deadline)

    async def score_timed(self, user_row: int, rows: IntArray) -> tuple[FloatArray, float]:
        return await self.score(user_row, rows, None), self.seconds

    async def logits_by(self, rows: IntArray, deadline: float | None) -> FloatArray:
        """The logits of posts, or an error if there is no time for them."""
        raise NotImplementedError

    async def _record_and_score(self, rows: IntArray, deadline: float | None) -> FloatArray:
        self.deadlines.append(deadline)
        self.called.set()
        return await self.logits_by(rows, deadline)


@dataclass
class RowScoresModel(FakeModel):
    """Scores each catalog row with a given logit; waits for its gate until the deadline.

    Attributes:
        logits: By row.
        featureless: Rows without features.
        poisoned: Users whose work raises IndexError.
        answers_from: The first deadline that leaves it enough time.
        explained: What the terms of a score add up to, as a factor of the logit.
        running: The number of calls that wait for the gate.
        explanations: The number of calls of `explain`.
        most_explaining: The largest number of such calls at once.
        explanation_began: Set by each such call.
    """

    logits: list[float]
    _: KW_ONLY
    featureless: set[int] = field(default_factory=set)
    poisoned: set[int] = field(default_factory=set)
    answers_from: float = 0.0
    explained: float = 1.0
    running: int = 0
    explanations: int = 0
    explaining: int = 0
    most_explaining: int = 0
    explanation_began: asyncio.Event = field(default_factory=asyncio.Event)

    def has_features(self, rows: IntArray) -> BoolArray:
        return np.array([row not in self.featureless for row in rows.tolist()], np.bool_)

    def score_all(
        self, user_rows: IntArray, sizes: IntArray, rows: IntArray, deadline: float
    ) -> "asyncio.Future[FloatArray]":
        if self.poisoned.intersection(user_rows.tolist()):
            return asyncio.ensure_future(self._fail())
        return super().score_all(user_rows, sizes, rows, deadline)

    async def _fail(self) -> FloatArray:
        raise IndexError

    async def logits_by(self, rows: IntArray, deadline: float | None) -> FloatArray:
        if self.gate is not None:
            self.running += 1
            try:
                async with asyncio.timeout_at(deadline):
                    await self.gate.wait()
            except TimeoutError as error:
                raise DeadlineUnreachable from error
            finally:
                self.running -= 1
        if self.failure is not None:
            raise self.failure
        if deadline is not None and deadline < self.answers_from:
            raise DeadlineUnreachable
        return np.array(self.logits, np.float32)[rows]

    async def explain(self, user_row: int, rows: IntArray, deadline: float) -> FloatArray:
        if self.failure is not None:
            raise self.failure
        self.explanations += 1
        self.explaining += 1
        self.most_explaining = max(self.most_explaining, self.explaining)
        self.explanation_began.set()
        try:
            await asyncio.sleep(0)
        finally:
            self.explaining -= 1
        terms = np.array(self.logits, np.float32)[rows] * self.explained / len(MODEL_TERMS)
        return np.repeat(terms[:, None], len(MODEL_TERMS), axis=1).astype(np.float32)


@dataclass
class PostScoresModel(FakeModel):
    """Scores posts by id with given logits, 0 where there is none.

    Attributes:
        state: The serving state whose catalog rows it scores.
        logits: By post id.
        featureless: Posts without features.
        background_gate: An event that it waits for when there is no deadline.
        least_time: Seconds that it needs before a deadline.
    """

    state: "FakeStateHolder"
    logits: dict[int, float]
    _: KW_ONLY
    background_gate: asyncio.Event | None = None
    featureless: set[int] = field(default_factory=set)
    least_time: float = 0.0

    def has_features(self, rows: IntArray) -> BoolArray:
        return ~np.isin(self.state.snapshot.post_ids[rows], list(self.featureless))

    async def logits_by(self, rows: IntArray, deadline: float | None) -> FloatArray:
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
class FakeStateHolder(ServingStateHolder):
    """ServingStateHolder whose parts a test can change; `looks` counts the calls of `current`."""

    snapshot: CatalogSnapshot
    active: RowScoresModel | PostScoresModel | None = None
    resident: Mapping[str, RowScoresModel | PostScoresModel] = field(default_factory=dict)

    _max_block_age: float = 600
    looks: int = 0

    @property
    def latest(self) -> ServingState:  # type: ignore[override]  # read only
        return ServingState(self.snapshot, self.active, self.resident)

    def current(self) -> ServingState:
        self.looks += 1
        return super().current()

    def activate(self, logits: dict[int, float], version: str = "v1") -> PostScoresModel:
        """Makes another model active, which scores posts by id."""
        self.active = PostScoresModel(self, logits, version=version)
        self.resident = {**self.resident, version: self.active}
        return self.active
