"""The swap: with the last shard the new generation becomes current, and the one before is retired."""

from dataclasses import dataclass
from typing import Protocol

import structlog

from animora_server.errors import StoreError
from animora_server.precompute.protocols import GenerationStore
from animora_server.types import Generation

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Swap:
    """What finishing a shard came to.

    Attributes:
        current: Whether timelines are served from the generation now.
        retired: Lists of the one before, which are left to their page tokens.
    """

    current: bool
    retired: int


class SwapObserver(Protocol):
    """Is told of the swap."""

    def swapped(self) -> None:
        """Timelines are served from the generation; what is left to do is to retire the one before."""
        ...


async def finish(store: GenerationStore, generation: Generation, shard: int, observer: SwapObserver) -> Swap:
    """Marks a shard (from 0) as done.

    Raises:
        StoreError: Redis did not answer; the same may be tried again.
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
        # The run has done its work: made again, it would begin another generation. The lists of the one
        # before end with their time to live, as they do where the process is killed here.
        log.warning("the lists of the generation before were not all retired", error=str(error))
        retired = 0
    return Swap(current, retired)
