"""The completion queue: futures are returned as they complete."""

import asyncio

from animora_server.ranker.completion_queue import CompletionQueue


def futures(count: int) -> "list[asyncio.Future[int]]":
    return [asyncio.get_running_loop().create_future() for _ in range(count)]


async def test_futures_that_complete_in_one_turn_are_returned_together():
    a, b, c = futures(3)
    queue: CompletionQueue[str] = CompletionQueue()
    for item, future in zip("abc", (a, b, c), strict=True):
        queue.add(item, future)
    c.set_result(3)
    a.set_exception(ValueError())
    loop = asyncio.get_running_loop()
    groups = []
    async for completed in queue:
        groups.append(completed)
        loop.call_soon(b.cancel)
    assert groups == [[("c", c), ("a", a)], [("b", b)]]


async def test_a_future_may_be_added_during_the_iteration():
    first, second = futures(2)
    queue: CompletionQueue[str] = CompletionQueue()
    queue.add("first", first)
    first.set_result(1)
    groups = []
    async for completed in queue:
        groups.append([item for item, _ in completed])
        if len(groups) == 1:
            queue.add("second", second)
            second.set_result(2)
    assert groups == [["first"], ["second"]]


async def test_an_empty_queue_ends_the_iteration():
    assert [completed async for completed in CompletionQueue[str]()] == []
