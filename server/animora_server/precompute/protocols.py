"""What precomputing needs from Redis."""

from collections.abc import Sequence
from typing import Protocol

from animora_server.types import Generation, IntArray, RankedTimeline


class GenerationStore(Protocol):
    """Generations of precomputed lists: at most one is current and at most one is being built.

    One that is being built is forgotten once it has been left alone for too long: looking for its lists,
    recording posts, storing lists and finishing a shard keep it.

    Every method raises StoreError where Redis does not do what it is asked; nothing is lost then, and the
    same call may be made again.
    """

    async def current(self) -> Generation | None:
        """The generation that timelines are served from."""
        ...

    async def building(self) -> Generation | None:
        """The generation that is being built."""
        ...

    async def begin(self, generation: Generation) -> Generation:
        """Begins a generation; gives the one that is being built already if there is one."""
        ...

    async def abandon(self, generation: Generation) -> None:
        """Ends the building of a generation; its lists expire by themselves."""
        ...

    async def intersect_posts(self, generation: Generation, post_ids: IntArray) -> None:
        """Records which posts a run ranks from; to be called before the run stores its first list.

        The generation keeps the intersection over all runs: the posts that each of its lists was ranked from.

        Args:
            generation: The one that is being built.
            post_ids: int64 (k), ascending, distinct.

        Raises:
            GenerationGone: It was abandoned, or left alone for too long.
        """
        ...

    async def are_stored(self, generation: Generation, keys: Sequence[bytes]) -> list[bool]:
        """For each key whether its list is stored."""
        ...

    async def put(self, generation: Generation, lists: Sequence[tuple[bytes, RankedTimeline]]) -> int:
        """Stores lists by key.

        Returns:
            How many bytes their values take.
        """
        ...

    async def finish_shard(self, generation: Generation, shard: int) -> bool:
        """Marks a shard (from 0) as done; with the last one the generation becomes current.

        Returns:
            Whether it is current now. Finishing a shard twice changes nothing.

        Raises:
            GenerationGone: It was abandoned, or left alone for too long.
        """
        ...

    async def retire(self, generation: Generation) -> int:
        """Lets the lists of a generation that is no longer current live for their page tokens alone.

        Returns:
            How many lists there were.
        """
        ...
