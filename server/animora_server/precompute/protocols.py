"""The store of generations that precompute needs."""

from collections.abc import Sequence
from typing import Protocol

from animora_server.types import Generation, IntArray, RankedTimeline


class GenerationStore(Protocol):
    """Generations of precomputed timelines: at most one is current, and at most one is being built.

    The generation being built expires `precompute.resume_within` after the last call of `are_stored`,
    `intersect_posts`, `put` or `finish_shard` for it.

    Every method raises StoreError if the store fails, and may then be called again.
    """

    async def current(self) -> Generation | None:
        """The generation that servers use."""
        ...

    async def building(self) -> Generation | None:
        """The generation that is being built."""
        ...

    async def begin(self, generation: Generation) -> Generation:
        """Begins a generation, unless one is being built. Returns the one that is being built."""
        ...

    async def abandon(self, generation: Generation) -> None:
        """Ends the building of a generation; its timelines expire."""
        ...

    async def intersect_posts(self, generation: Generation, post_ids: IntArray) -> None:
        """Records the posts that a run ranks from. A run must call it before it stores its first timeline.

        The generation keeps the intersection over all runs: every timeline was ranked from these posts.
        If the stored posts are damaged, they are deleted and stay absent for this generation.

        Args:
            generation: The generation being built.
            post_ids: int64 (k), ascending, distinct.

        Raises:
            GenerationGone: It was abandoned or has expired.
        """
        ...

    async def are_stored(self, generation: Generation, keys: Sequence[bytes]) -> list[bool]:
        """For each key whether its timeline is stored."""
        ...

    async def put(self, generation: Generation, timelines: Sequence[tuple[bytes, RankedTimeline]]) -> int:
        """Stores timelines by key.

        Returns:
            The size of their values in bytes.
        """
        ...

    async def finish_shard(self, generation: Generation, shard: int) -> bool:
        """Marks a shard (from 0) as finished. The last shard makes the generation current. Idempotent.

        Returns:
            Whether the generation is current now.

        Raises:
            GenerationGone: It was abandoned or has expired.
        """
        ...

    async def retire(self, generation: Generation) -> int:
        """Shortens the TTLs of a generation that is no longer current to what page tokens need.

        Returns:
            The number of its timelines.
        """
        ...
