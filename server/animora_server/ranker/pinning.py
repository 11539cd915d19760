"""The pin of a request: what it sees from its first step to its last, if that may be shown at all."""

import time

from animora_server.errors import CatalogUnavailable
from animora_server.ranker.protocols import Pin, Pins


def current_pin(pins: Pins, max_block_age: float) -> Pin:
    """The current pin.

    Args:
        pins: Where from.
        max_block_age: Seconds after which blocks that could not be refreshed are too old.

    Raises:
        CatalogUnavailable: The catalog is not loaded, or its blocks are too old.
    """
    pin = pins.current()
    if pin is None:
        raise CatalogUnavailable("the catalog is not loaded yet")
    if time.monotonic() - pin.snapshot.blocks_read_at > max_block_age:
        raise CatalogUnavailable("the blocks between users could not be refreshed for too long")
    return pin
