"""Waiting for company."""

import asyncio
import itertools
from collections.abc import Callable

from animora_server.batching.gathering import ENOUGH, LONGEST, TURNS, Gathering


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
    Gathering(seen).add(1)
    assert TURNS <= await turns_until(lambda: seen.groups) <= TURNS + 2


async def test_what_comes_some_turns_apart_goes_on_together_in_order():
    seen = Recorder()
    gathering = Gathering(seen)
    for item in range(5):
        gathering.add(item)
        for _ in range(TURNS // 2):
            await asyncio.sleep(0)
    assert not seen.groups
    await turns_until(lambda: seen.groups)
    assert seen.groups == [[0, 1, 2, 3, 4]]


async def test_enough_wait_for_no_more():
    seen = Recorder()
    gathering = Gathering(seen)
    for item in range(ENOUGH):
        gathering.add(item)
    assert await turns_until(lambda: seen.groups) <= 2


async def test_it_does_not_wait_for_long_where_each_turn_takes_long():
    seen, seconds = Recorder(), itertools.count(0.0, LONGEST / 2)
    Gathering(seen, lambda: next(seconds)).add(1)
    assert await turns_until(lambda: seen.groups) <= 4


async def test_the_next_that_comes_waits_anew():
    seen = Recorder()
    gathering = Gathering(seen)
    gathering.add(1)
    await turns_until(lambda: seen.groups)
    gathering.add(2)
    assert await turns_until(lambda: len(seen.groups) == 2) >= TURNS
    assert seen.groups == [[1], [2]]
