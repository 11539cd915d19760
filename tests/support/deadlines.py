"""Calls with too little time for a model that does not answer."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from animora_server.errors import DeadlineExpired

Answer = TypeVar("Answer")


async def with_short_timeout(call: Callable[[float], Awaitable[Answer]]) -> Answer:
    """The result of a call with a short timeout in seconds; a longer one if a busy machine missed that."""
    for timeout in (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4):
        try:
            return await call(timeout)
        except DeadlineExpired:
            pass
    return await call(12.8)
