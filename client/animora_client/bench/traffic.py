"""Generates the calls of a load: random users and posts, serialised before the measurement starts."""

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from animora_client.request import CachePolicy, RankRequest, TimelineRequest
from animora_client.wire import batch_message, rank_message, timeline_message
from animora_proto.ranking.v1 import ranking_pb2

IntArray = npt.NDArray[np.int64]

MAX_IDS = 4_000_000  # ids of all calls: 32 MB of messages, and as much to check the replies


@dataclass(frozen=True, slots=True)
class IdRange:
    """A range of ids, from low to high inclusive."""

    low: int
    high: int

    @classmethod
    def parse(cls, text: str) -> "IdRange":
        """Reads `LOW-HIGH`, such as `1-5000`.

        Raises:
            ValueError: The text is not a range, or the range is empty or exceeds 64 bits.
        """
        match = re.fullmatch(r"(-?\d+)-(-?\d+)", text.strip())
        if match is None:
            raise ValueError(f"{text!r} is not a range: write LOW-HIGH, such as 1-5000")
        low, high = map(int, match.groups())
        if not -(2**63) <= low <= high < 2**63:
            raise ValueError(f"{text!r} is not a range of 64-bit ids from low to high")
        return cls(low, high)

    def __len__(self) -> int:
        return self.high - self.low + 1

    def __str__(self) -> str:
        return f"{self.low}-{self.high}"


@dataclass(frozen=True, slots=True)
class RankTraffic:
    """Random calls of Rank or BatchRank.

    Attributes:
        users: The range of user ids.
        posts: The range of post ids.
        candidates: Distinct posts per request.
        batch: Requests per BatchRank call; 0 calls Rank.
        limit: Posts to return; 0 for all.
        cache_policy: How requests use the server's cache.
        distinct: Distinct calls, which are sent in rotation.
        seed: The seed of the random generator.

    Raises:
        ValueError: There are fewer posts than candidates.
    """

    users: IdRange
    posts: IdRange
    candidates: int = 200
    batch: int = 0
    limit: int = 0
    cache_policy: CachePolicy = CachePolicy.BYPASS
    distinct: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.candidates > len(self.posts):
            raise ValueError(f"{self.candidates} candidates cannot be drawn from posts {self.posts}")

    @property
    def method(self) -> str:
        """The gRPC method that is called."""
        return "BatchRank" if self.batch else "Rank"

    def describe(self) -> str:
        """A description of the calls."""
        requests = f"{self.batch} requests of " if self.batch else ""
        return f"{self.method}: {requests}{self.candidates} candidates"

    @property
    def calls(self) -> int:
        """The number of distinct calls: `distinct`, or fewer to bound the memory."""
        return max(1, min(self.distinct, MAX_IDS // (self.candidates * max(1, self.batch))))


@dataclass(frozen=True, slots=True)
class RankCall:
    """One call of Rank or BatchRank, ready to be sent, and what is needed to check its reply.

    Attributes:
        body: The serialised message.
        candidates: For each of its requests int64 (n), ascending.
        limit: Posts to return; 0 for all.
        is_batch: Whether the reply is BatchRank's.
    """

    body: bytes
    candidates: tuple[IntArray, ...]
    limit: int
    is_batch: bool


@dataclass(frozen=True, slots=True)
class TimelineTraffic:
    """Calls of GetTimeline for first pages, one call per user.

    Attributes:
        users: The range of user ids.
        page_size: Posts to return; 0 for the server's default.
        cache_policy: How requests use the server's cache.
        distinct: Users at most.
        seed: The seed of the random generator.
    """

    users: IdRange
    page_size: int = 0
    cache_policy: CachePolicy = CachePolicy.BYPASS
    distinct: int = 1000
    seed: int = 0

    @property
    def method(self) -> str:
        """The gRPC method that is called."""
        return "GetTimeline"

    @property
    def calls(self) -> int:
        """The number of distinct calls."""
        return min(self.distinct, len(self.users))

    def describe(self) -> str:
        """A description of the calls."""
        posts = f"{self.page_size} posts" if self.page_size else "pages of the server's default size"
        return f"{self.method}: {posts}, {self.calls} users"


@dataclass(frozen=True, slots=True)
class TimelineCall:
    """One call of GetTimeline, ready to be sent, and what is needed to check its reply.

    Attributes:
        body: The serialised message.
        page_size: Posts to return; 0 for the server's default.
    """

    body: bytes
    page_size: int


Traffic = RankTraffic | TimelineTraffic
Call = RankCall | TimelineCall


def make_calls(traffic: Traffic) -> tuple[Call, ...]:
    """Generates the calls to send in rotation."""
    rng = np.random.default_rng(traffic.seed)
    if isinstance(traffic, RankTraffic):
        return tuple(_make_rank_call(traffic, rng) for _ in range(traffic.calls))
    offsets = rng.choice(len(traffic.users), traffic.calls, replace=False, shuffle=True)
    return tuple(_make_timeline_call(traffic, traffic.users.low + int(offset)) for offset in offsets)


def _make_rank_call(traffic: RankTraffic, rng: np.random.Generator) -> RankCall:
    requests = [_random_request(traffic, rng) for _ in range(max(1, traffic.batch))]
    message: ranking_pb2.RankRequest | ranking_pb2.BatchRankRequest
    message = batch_message(requests) if traffic.batch else rank_message(requests[0])
    return RankCall(
        body=message.SerializeToString(),
        candidates=tuple(np.sort(np.asarray(request.post_ids, np.int64)) for request in requests),
        limit=traffic.limit,
        is_batch=traffic.batch > 0,
    )


def _random_request(traffic: RankTraffic, rng: np.random.Generator) -> RankRequest:
    user_id = int(rng.integers(traffic.users.low, traffic.users.high, endpoint=True))
    offsets = rng.choice(len(traffic.posts), traffic.candidates, replace=False, shuffle=True)
    post_ids = offsets.astype(np.int64) + traffic.posts.low
    return RankRequest(user_id, post_ids, limit=traffic.limit, cache_policy=traffic.cache_policy)


def _make_timeline_call(traffic: TimelineTraffic, user_id: int) -> TimelineCall:
    request = TimelineRequest(user_id, page_size=traffic.page_size, cache_policy=traffic.cache_policy)
    return TimelineCall(timeline_message(request).SerializeToString(), traffic.page_size)
