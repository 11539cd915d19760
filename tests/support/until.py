"""Waits for what a test expects to happen, and fails when it does not."""

import asyncio
from collections.abc import Awaitable, Callable
from inspect import isawaitable

# Seconds: far beyond what a machine under load needs, and below pytest's limit for a whole test. A test that
# waits for something that never comes fails by this limit, and its traceback shows where.
HANG_TIMEOUT = 240.0


async def until(holds: Callable[[], object | Awaitable[object]], interval: float = 0.002) -> None:
    """Polls a condition, a function or a coroutine function, until it holds.

    Args:
        holds: Called again and again; its result, awaited if it can be, is true once the condition holds.
        interval: Seconds between two calls.

    Raises:
        TimeoutError: The condition did not hold within HANG_TIMEOUT.
    """
    async with asyncio.timeout(HANG_TIMEOUT):
        while True:
            result = holds()
            if await result if isawaitable(result) else result:
                return
            await asyncio.sleep(interval)
