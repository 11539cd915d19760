"""Generations in memory, and an observer of runs."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from animora_server.errors import StoreError
from animora_server.types import Generation, IntArray, RankedTimeline


@dataclass
class FakeGenerations:
    """See precompute.protocols.GenerationStore; `failures` calls fail before the next one succeeds."""

    finished: Generation | None = None
    begun: Generation | None = None
    posts: dict[bytes, set[int]] = field(default_factory=dict)
    timelines: dict[bytes, dict[bytes, RankedTimeline]] = field(default_factory=dict)
    done: set[int] = field(default_factory=set)
    retired: list[Generation] = field(default_factory=list)
    failures: int = 0
    calls: list[str] = field(default_factory=list)

    async def current(self) -> Generation | None:
        self._called("current")
        return self.finished

    async def building(self) -> Generation | None:
        self._called("building")
        return self.begun

    async def begin(self, generation: Generation) -> Generation:
        self._called("begin")
        if self.begun is None:
            self.begun = generation
        return self.begun

    async def abandon(self, generation: Generation) -> None:
        self._called("abandon")
        if self.begun and self.begun.generation_id == generation.generation_id:
            self.begun, self.done = None, set()

    async def intersect_posts(self, generation: Generation, post_ids: IntArray) -> None:
        self._called("intersect_posts")
        posts = set(post_ids.tolist())
        self.posts[generation.generation_id] = posts & self.posts.get(generation.generation_id, posts)

    async def are_stored(self, generation: Generation, keys: Sequence[bytes]) -> list[bool]:
        self._called("are_stored")
        stored = self.timelines.get(generation.generation_id, {})
        return [key in stored for key in keys]

    async def put(self, generation: Generation, timelines: Sequence[tuple[bytes, RankedTimeline]]) -> int:
        self._called("put")
        self.timelines.setdefault(generation.generation_id, {}).update(timelines)
        return sum(12 * len(made.post_ids) for _, made in timelines)

    async def finish_shard(self, generation: Generation, shard: int) -> bool:
        self._called("finish_shard")
        self.done.add(shard)
        if len(self.done) == generation.shards:
            self.finished, self.begun, self.done = generation, None, set()
        return self.finished is generation

    async def retire(self, generation: Generation) -> int:
        self._called("retire")
        self.retired.append(generation)
        return len(self.timelines.pop(generation.generation_id, {}))

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if self.failures:
            self.failures -= 1
            raise StoreError("Redis is away")


class ProgressRecorder:
    """Records the progress of a run; see job.RunObserver."""

    def __init__(self):
        self.plan, self.users, self.chunks, self.swaps = None, 0, [], 0

    def planned(self, plan, users):
        self.plan, self.users = plan, users

    def advanced(self, chunk):
        self.chunks.append(chunk)

    def swapped(self):
        self.swaps += 1
