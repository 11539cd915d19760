"""Futures, taken together as they are done."""

import asyncio

from animora_server.ranker.completion_queue import CompletionQueue


def futures(count: int) -> "list[asyncio.Future[int]]":
    return [asyncio.get_running_loop().create_future() for _ in range(count)]


async def test_what_is_done_in_one_turn_comes_together_and_ends_with_the_last():
    a, b, c = futures(3)
    settling: CompletionQueue[str] = CompletionQueue()
    for item, future in zip("abc", (a, b, c), strict=True):
        settling.add(item, future)
    c.set_result(3)
    a.set_exception(ValueError())
    loop = asyncio.get_running_loop()
    groups = []
    async for some in settling:
        groups.append(some)
        loop.call_soon(b.cancel)
    assert groups == [[("c", c), ("a", a)], [("b", b)]]


async def test_more_may_come_while_it_is_waited_for():
    first, second = futures(2)
    settling: CompletionQueue[str] = CompletionQueue()
    settling.add("first", first)
    first.set_result(1)
    groups = []
    async for some in settling:
        groups.append([item for item, _ in some])
        if len(groups) == 1:
            settling.add("second", second)
            second.set_result(2)
    assert groups == [["first"], ["second"]]


async def test_nothing_to_wait_for_is_the_end():
    assert [some async for some in CompletionQueue[str]()] == []
