"""Micro-batching in rows: a queue that turns concurrent work into batches, and what a batch costs."""

from animora_server.batching.batcher import Batcher, BatchLimits
from animora_server.batching.cost import CostModel
from animora_server.batching.expiry import Expiry
from animora_server.batching.gathering import Gathering
from animora_server.batching.observer import BatchObserver
from animora_server.batching.settling import AnyFuture, Settling
from animora_server.batching.together import together

__all__ = [
    "AnyFuture",
    "BatchLimits",
    "BatchObserver",
    "Batcher",
    "CostModel",
    "Expiry",
    "Gathering",
    "Settling",
    "together",
]
