"""One call of a function for all who ask in the same turn of the event loop."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Together(Generic[Item, Result]):
    """Answers calls by a function of many items: NumPy takes hardly longer for all of them than for one.

    Args:
        function: Takes items and returns as many results, in order. Where it raises for several, it is asked
            for each alone, so that one item's fault is not its neighbours'.
    """

    def __init__(self, function: Callable[[Sequence[Item]], Sequence[Result]]) -> None:
        self._function = function
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []

    def __call__(self, item: Item) -> "asyncio.Future[Result]":
        """The result for an item, or what the function raised for it, in the next turn."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._answer)
        self._waiting.append((item, future))
        return future

    def _answer(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._answer_all([(item, future) for item, future in waiting if not future.cancelled()])

    def _answer_all(self, asked: Sequence[tuple[Item, asyncio.Future[Result]]]) -> None:
        if not asked:
            return
        try:
            results = self._function([item for item, _ in asked])
        except Exception as error:  # whatever it is must reach whoever asked for it
            if len(asked) == 1:
                asked[0][1].set_exception(error)
            else:
                for each in asked:
                    self._answer_all([each])
        else:
            for (_, future), result in zip(asked, results, strict=True):
                future.set_result(result)
