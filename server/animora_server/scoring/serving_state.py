"""Takes the serving state of a request, unless the catalog is unavailable."""

import time

from animora_server.errors import CatalogUnavailable
from animora_server.scoring.protocols import ServingState, ServingStateSource


def current_state(states: ServingStateSource, max_block_age: float) -> ServingState:
    """The current serving state.

    Args:
        states: Publishes it.
        max_block_age: Seconds after which blocks that could not be refreshed are too old.

    Raises:
        CatalogUnavailable: The catalog is not loaded, or its blocks are too old.
    """
    state = states.current()
    if state is None:
        raise CatalogUnavailable("the catalog is not loaded yet")
    if time.monotonic() - state.snapshot.blocks_read_at > max_block_age:
        raise CatalogUnavailable("the blocks between users could not be refreshed for too long")
    return state
