"""A bounded queue of samples, processed one after another beside requests."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from animora_server.background import BackgroundLoop

Sample = TypeVar("Sample")

IDLE_SECONDS = 1.0  # between two rounds without samples


class SampleQueue(Generic[Sample]):
    """Processes samples one after another. An error costs one sample.

    Args:
        name: The name of the background loop.
        process: Processes a sample.
        max_waiting: The most samples that may wait; further ones are refused.

    Attributes:
        loop: The background loop.
    """

    def __init__(self, name: str, process: Callable[[Sample], Awaitable[None]], max_waiting: int) -> None:
        self._process = process
        self._max_waiting = max_waiting
        self._waiting: deque[Sample] = deque()
        self._wake = asyncio.Event()
        self.loop = BackgroundLoop(name, self._process_all, wake=self._wake)

    def __len__(self) -> int:
        return len(self._waiting)

    def offer(self, sample: Sample) -> bool:
        """Queues a sample; returns whether there was room."""
        if len(self._waiting) >= self._max_waiting:
            return False
        self._waiting.append(sample)
        self._wake.set()
        return True

    async def _process_all(self) -> float:
        self._wake.clear()
        while self._waiting:
            await self._process(self._waiting.popleft())
        return IDLE_SECONDS
