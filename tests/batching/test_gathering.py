"""Waiting for company."""

import asyncio
import itertools

from animora_server.batching.gathering import ENOUGH, FEW_TURNS, LONGEST, MANY_TURNS, Gathering


async def turns_of(gathering: Gathering, arrived) -> int:
    """How many turns of the event loop it waits."""
    turns = 0
    waiting = asyncio.create_task(gathering.wait(arrived))
    while not waiting.done():
        await asyncio.sleep(0)
        turns += 1
    return turns


async def test_what_comes_alone_waits_for_a_few_turns():
    assert FEW_TURNS <= await turns_of(Gathering(), lambda: 1) <= FEW_TURNS + 2


async def test_where_nothing_waits_nothing_is_waited_for():
    assert await turns_of(Gathering(), lambda: 0) <= 2


async def test_what_had_company_waits_for_more():
    gathering = Gathering()
    gathering.took(2)
    assert MANY_TURNS <= await turns_of(gathering, lambda: 2) <= MANY_TURNS + 2
    gathering.took(1)
    assert await turns_of(gathering, lambda: 2) <= FEW_TURNS + 2


async def test_it_goes_on_while_more_keeps_coming_until_that_is_enough():
    count = 0

    def arrived() -> int:
        nonlocal count
        count += 1
        return count

    await Gathering().wait(arrived)

    assert count >= ENOUGH


async def test_it_does_not_wait_for_long_where_each_turn_takes_long():
    seconds = itertools.count(0.0, LONGEST / 2)
    gathering = Gathering(lambda: next(seconds))
    gathering.took(2)

    assert await turns_of(gathering, lambda: 1) < FEW_TURNS
