"""Waiting for company."""

import asyncio
import itertools
from collections.abc import Callable

from animora_server.ranker.coalescer import IDLE_TURNS, MAX_DELAY, MAX_ITEMS, RequestCoalescer


class Recorder:
    """Records what goes on together."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []

    def __call__(self, items: list[int]) -> None:
        self.groups.append(items)


async def turns_until(condition: Callable[[], object]) -> int:
    turns = 0
    while not condition():
        await asyncio.sleep(0)
        turns += 1
    return turns


async def test_what_comes_alone_waits_for_some_turns():
    seen = Recorder()
    RequestCoalescer(seen).add(1)
    assert IDLE_TURNS <= await turns_until(lambda: seen.groups) <= IDLE_TURNS + 2


async def test_what_comes_some_turns_apart_goes_on_together_in_order():
    seen = Recorder()
    gathering = RequestCoalescer(seen)
    for item in range(5):
        gathering.add(item)
        for _ in range(IDLE_TURNS // 2):
            await asyncio.sleep(0)
    assert not seen.groups
    await turns_until(lambda: seen.groups)
    assert seen.groups == [[0, 1, 2, 3, 4]]


async def test_enough_wait_for_no_more():
    seen = Recorder()
    gathering = RequestCoalescer(seen)
    for item in range(MAX_ITEMS):
        gathering.add(item)
    assert await turns_until(lambda: seen.groups) <= 2


async def test_it_does_not_wait_for_long_where_each_turn_takes_long():
    seen, seconds = Recorder(), itertools.count(0.0, MAX_DELAY / 2)
    RequestCoalescer(seen, lambda: next(seconds)).add(1)
    assert await turns_until(lambda: seen.groups) <= 4


async def test_the_next_that_comes_waits_anew():
    seen = Recorder()
    gathering = RequestCoalescer(seen)
    gathering.add(1)
    await turns_until(lambda: seen.groups)
    gathering.add(2)
    assert await turns_until(lambda: len(seen.groups) == 2) >= IDLE_TURNS
    assert seen.groups == [[1], [2]]
