"""The swap: the last shard makes the new generation current, and the previous one is retired."""

from dataclasses import dataclass
from typing import Protocol

import structlog

from animora_server.errors import StoreError
from animora_server.precompute.protocols import GenerationStore
from animora_server.types import Generation

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Swap:
    """The result of finishing a shard.

    Attributes:
        current: Whether the generation is current.
        retired: Number of timelines of the previous generation that were retired.
    """

    current: bool
    retired: int


class SwapObserver(Protocol):
    """Receives the swap."""

    def swapped(self) -> None:
        """The generation is current; the previous one is about to be retired."""
        ...


async def finish(store: GenerationStore, generation: Generation, shard: int, observer: SwapObserver) -> Swap:
    """Marks a shard (from 0) as finished; after the swap, retires the previous generation.

    Raises:
        StoreError: Redis did not answer; the call may be retried.
        GenerationGone: The generation was abandoned.
    """
    before = await store.current()
    current = await store.finish_shard(generation, shard)
    if current:
        observer.swapped()
    if not current or before is None or before.generation_id == generation.generation_id:
        return Swap(current, 0)
    try:
        retired = await store.retire(before)
    except StoreError as error:
        # The run is complete; a retry would begin another generation. The timelines of the previous one
        # expire with their time to live, as they do if the process is killed here.
        log.warning("previous generation not fully retired", error=str(error))
        retired = 0
    return Swap(current, retired)
