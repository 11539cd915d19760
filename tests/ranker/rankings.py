"""Rankers over fakes, queries for them, and a cache of scores in memory."""

import asyncio
from collections.abc import Sequence

import numpy as np

from animora_server.ranker import CandidateRanker
from animora_server.ranker.score_provider import CacheAccess
from animora_server.scoring.arms import Arms
from animora_server.scoring.heuristic import Heuristic
from animora_server.types import (
    FloatArray,
    IntArray,
    RankedCandidates,
    RankQuery,
)
from tests.support.catalogs import NOW


class FakeCache:
    def __init__(self):
        self.stored: dict[bytes, FloatArray] = {}
        self.reads = 0

    def find(
        self, keys: Sequence[bytes], counts: Sequence[int], deadline: float
    ) -> "asyncio.Future[list[FloatArray | None]]":
        self.reads += len(keys)
        found: asyncio.Future[list[FloatArray | None]] = asyncio.get_running_loop().create_future()
        found.set_result([self.stored.get(key) for key in keys])
        return found

    def put(self, key: bytes, scores: FloatArray) -> None:
        self.stored[key] = scores


class Stages:
    def observe(self, stage: str, seconds: float) -> None:
        assert stage in ("candidates", "cache", "score", "order")
        assert seconds >= 0


def key(model_version: str, user_id: int, post_ids: IntArray, fingerprints: IntArray) -> bytes:
    return repr((model_version, user_id, post_ids.tolist(), fingerprints.tolist())).encode()


def ranker_over(states, cache: FakeCache | None = None, arms: Arms | None = None) -> CandidateRanker:
    access = CacheAccess(cache, key) if cache else None
    return CandidateRanker(states, access, Heuristic(), stages=Stages(), arms=arms, clock=lambda: NOW)


async def rank(
    states, *post_ids: int, user: int = 7, cache: FakeCache | None = None, **options
) -> RankedCandidates:
    timeout = options.pop("timeout", 60)
    deadline = asyncio.get_running_loop().time() + timeout
    query = RankQuery(user_id=user, post_ids=np.array(post_ids, np.int64), deadline=deadline, **options)
    return await ranker_over(states, cache).rank(query)


def query(timeout: float = 60, user: int = 7, posts: tuple[int, ...] = (10, 20, 30), **options) -> RankQuery:
    """A query that reserves half of its time for the heuristic, so that a busy machine can answer in time."""
    deadline = asyncio.get_running_loop().time() + timeout
    options = {"reserve": timeout / 2, **options}
    return RankQuery(user_id=user, post_ids=np.array(posts, np.int64), deadline=deadline, **options)


def rankings_of(outcomes: Sequence[RankedCandidates | BaseException]) -> list[RankedCandidates]:
    """The rankings among the outcomes, without the errors."""
    return [outcome for outcome in outcomes if isinstance(outcome, RankedCandidates)]


THREE = {10: {"likes": 1}, 20: {"likes": 5}, 30: {"likes": 9}}
