"""Waiting for company."""

import asyncio
import itertools

from animora_server.batching.gathering import ENOUGH, LONGEST, TURNS, Gathering


async def turns_until_done(future: asyncio.Future[None]) -> int:
    turns = 0
    while not future.done():
        await asyncio.sleep(0)
        turns += 1
    return turns


async def test_what_comes_alone_waits_for_some_turns():
    assert TURNS <= await turns_until_done(Gathering().arrive()) <= TURNS + 2


async def test_what_comes_some_turns_apart_goes_on_in_the_same_turn():
    gathering = Gathering()
    arrivals = []
    for _ in range(5):
        arrivals.append(gathering.arrive())
        for _ in range(TURNS // 2):
            await asyncio.sleep(0)
    assert not any(arrival.done() for arrival in arrivals)
    await turns_until_done(arrivals[-1])
    assert all(arrival.done() for arrival in arrivals)


async def test_enough_wait_for_no_more():
    gathering = Gathering()
    arrivals = [gathering.arrive() for _ in range(ENOUGH)]
    assert await turns_until_done(arrivals[0]) <= 2


async def test_it_does_not_wait_for_long_where_each_turn_takes_long():
    seconds = itertools.count(0.0, LONGEST / 2)
    assert await turns_until_done(Gathering(lambda: next(seconds)).arrive()) <= 4


async def test_the_next_that_comes_waits_anew():
    gathering = Gathering()
    await gathering.arrive()
    assert await turns_until_done(gathering.arrive()) >= TURNS


async def test_one_that_goes_away_leaves_the_others():
    gathering = Gathering()
    gone, stays = gathering.arrive(), gathering.arrive()
    gone.cancel()
    await stays
