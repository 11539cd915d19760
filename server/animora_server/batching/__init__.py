"""Micro-batching in rows: a queue that turns concurrent work into batches, and what a batch costs."""

from animora_server.batching.batcher import Batcher, BatchLimits
from animora_server.batching.coalescer import RequestCoalescer
from animora_server.batching.completion_queue import AnyFuture, CompletionQueue
from animora_server.batching.cost import CostModel
from animora_server.batching.deadline_timer import DeadlineTimer
from animora_server.batching.isolation import call_isolating_failures
from animora_server.batching.observer import BatchObserver

__all__ = [
    "AnyFuture",
    "BatchLimits",
    "BatchObserver",
    "Batcher",
    "CompletionQueue",
    "CostModel",
    "DeadlineTimer",
    "RequestCoalescer",
    "call_isolating_failures",
]
