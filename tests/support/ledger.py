"""The ledger: every request sent has exactly one outcome, and every score is checked against its version."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
import numpy as np

from animora_proto.ranking.v1 import ranking_pb2 as pb
from tests.support.artifacts import TinyNetwork
from tests.support.feed import TRAINED_USERS, Feed
from tests.support.until import HANG_TIMEOUT

if TYPE_CHECKING:
    from animora_proto.ranking.v1.ranking_pb2_grpc import RankingServiceAsyncStub

TOLERANCE = 1e-5
REPEATED = 10  # requests that a worker sends again and again, which may be cached; half of all it sends


@dataclass
class Ledger:
    """The outcomes of the requests.

    Attributes:
        feed: The feed whose posts are ranked.
        networks: The eager network of each version that may answer.
        arms: How often a user, an arm and a version came together.
        seconds: How long each call took, in the order of their outcomes.
    """

    feed: Feed
    networks: Mapping[str, TinyNetwork]
    sent: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    versions: Counter[str] = field(default_factory=Counter)
    arms: Counter[tuple[int, str, str]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    settled: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def until_serving(self, stub: "RankingServiceAsyncStub") -> None:
        """Waits until a server answers by a model; these calls do not count."""
        request = pb.RankRequest(user_id=TRAINED_USERS[0], post_ids=[int(self.feed.post_ids[0])])
        async with asyncio.timeout(HANG_TIMEOUT):
            while True:
                with suppress(grpc.aio.AioRpcError):
                    if (await stub.Rank(request, timeout=10, wait_for_ready=True)).model_version:
                        return
                await asyncio.sleep(0.05)

    @asynccontextmanager
    async def load(self, stub: "RankingServiceAsyncStub", workers: int = 8) -> AsyncIterator[None]:
        """Keeps `workers` requests in flight within the block; all have an outcome after it."""
        stop = asyncio.Event()
        tasks = [asyncio.create_task(self._work(stub, number, stop)) for number in range(workers)]
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*tasks)

    def problems(self, *allowed: str) -> list[str]:
        """What is wrong with the outcomes so far; empty if all is well.

        Args:
            allowed: Outcomes besides OK that are no problem: names of gRPC codes or degraded reasons.
        """
        lost = self.sent - sum(self.outcomes.values())
        unexpected = {name: count for name, count in self.outcomes.items() if name not in ("OK", *allowed)}
        return [
            *self.wrong,
            *([f"{lost} calls have no outcome"] if lost else []),
            *(f"{count} calls are {name}" for name, count in unexpected.items()),
        ]

    async def more(self, count: int) -> None:
        """Waits until `count` further requests have an outcome."""
        target = sum(self.outcomes.values()) + count
        async with self.settled:
            await self.settled.wait_for(lambda: sum(self.outcomes.values()) >= target)

    async def until_version(self, version: str) -> None:
        """Waits until a version has answered."""
        async with self.settled:
            await self.settled.wait_for(lambda: self.versions[version] > 0)

    async def _work(self, stub: "RankingServiceAsyncStub", number: int, stop: asyncio.Event) -> None:
        random = np.random.default_rng(number)
        repeated = [self._draw(random) for _ in range(REPEATED)]
        while not stop.is_set():
            user, posts = self._draw(random) if random.random() < 0.5 else repeated[random.integers(REPEATED)]
            self.sent += 1
            began = time.monotonic()
            try:
                response = await stub.Rank(pb.RankRequest(user_id=user, post_ids=posts), timeout=10)
            except grpc.aio.AioRpcError as error:
                outcome = error.code().name
            else:
                outcome = self._check(user, set(posts.tolist()), response)
            async with self.settled:
                self.seconds.append(time.monotonic() - began)
                self.outcomes[outcome] += 1
                self.settled.notify_all()

    def _draw(self, random: np.random.Generator) -> tuple[int, np.ndarray]:
        """A user and candidates."""
        user = TRAINED_USERS[int(random.integers(len(TRAINED_USERS)))]
        return user, random.choice(self.feed.post_ids, int(random.integers(1, 40)), replace=False)

    def _check(self, user: int, posts: set[int], response: pb.RankResponse) -> str:
        if set(response.post_ids) != posts or len(response.post_ids) != len(posts):
            self.wrong.append(f"posts {list(response.post_ids)} instead of {posts}")
        if response.ranker != pb.RANKER_NEUCF:
            return pb.DegradedReason.Name(response.degraded_reason)
        self.versions[response.model_version] += 1
        self.arms[user, response.arm, response.model_version] += 1
        expected = self.feed.probabilities(self.networks[response.model_version], user)
        for post, score in zip(response.post_ids, response.scores, strict=True):
            if abs(score - expected[post]) > TOLERANCE:
                self.wrong.append(f"user {user}, post {post}: {score} instead of {expected[post]}")
        return "OK"
