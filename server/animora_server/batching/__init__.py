"""Micro-batching: a queue that turns concurrent work into batches, and an estimate of their cost."""

from animora_server.batching.batcher import Batcher, BatchLimits
from animora_server.batching.coalescer import RequestCoalescer
from animora_server.batching.cost import CostModel
from animora_server.batching.deadline_timer import DeadlineTimer
from animora_server.batching.observer import BatchObserver

__all__ = [
    "BatchLimits",
    "BatchObserver",
    "Batcher",
    "CostModel",
    "DeadlineTimer",
    "RequestCoalescer",
]
