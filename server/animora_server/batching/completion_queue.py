"""Waiting for many futures, of which those that are done at the same time are taken together."""

import asyncio
from functools import partial
from typing import Any, Generic, Self, TypeAlias, TypeVar

Item = TypeVar("Item")
AnyFuture: TypeAlias = asyncio.Future[Any]
# Items, each with its future, which is done.
Completed: TypeAlias = list[tuple[Item, AnyFuture]]


class CompletionQueue(Generic[Item]):
    """Futures, each with an item that it is for, to be iterated over as they are done.

    An iteration gives all that were done in one turn of the event loop, each once; it ends when none is left.
    `asyncio.wait` does as much in three times the time.
    """

    def __init__(self) -> None:
        self._left = 0
        self._done: Completed[Item] = []
        self._some_are_done = asyncio.Event()

    def add(self, item: Item, future: AnyFuture) -> None:
        """Waits for one more; also while it is iterated over."""
        self._left += 1
        future.add_done_callback(partial(self._note, item))

    def __bool__(self) -> bool:
        """Whether one is left."""
        return self._left > 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Completed[Item]:
        if not self._left:
            raise StopAsyncIteration
        await self._some_are_done.wait()
        self._some_are_done.clear()
        some, self._done = self._done, []
        self._left -= len(some)
        return some

    def _note(self, item: Item, future: AnyFuture) -> None:
        self._done.append((item, future))
        self._some_are_done.set()
