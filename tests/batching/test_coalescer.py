"""The coalescer: which requests are flushed together, and when."""

import asyncio
import itertools
from collections.abc import Callable

from animora_server.batching.coalescer import IDLE_TURNS, MAX_DELAY, MAX_ITEMS, RequestCoalescer


class FlushRecorder:
    """Records the items of each flush."""

    def __init__(self) -> None:
        self.flushes: list[list[int]] = []

    def __call__(self, items: list[int]) -> None:
        self.flushes.append(items)


def frozen() -> float:
    """A clock that stands still, so that only turns of the event loop count."""
    return 0.0


async def turns_until(condition: Callable[[], object]) -> int:
    turns = 0
    while not condition():
        await asyncio.sleep(0)
        turns += 1
    return turns


async def test_a_lone_request_waits_for_some_idle_turns():
    seen = FlushRecorder()
    RequestCoalescer(seen, frozen).add(1)
    assert IDLE_TURNS <= await turns_until(lambda: seen.flushes) <= IDLE_TURNS + 2


async def test_requests_that_arrive_a_few_turns_apart_are_coalesced_in_order():
    seen = FlushRecorder()
    coalescer = RequestCoalescer(seen, frozen)
    for item in range(5):
        coalescer.add(item)
        for _ in range(IDLE_TURNS // 2):
            await asyncio.sleep(0)
    assert not seen.flushes
    await turns_until(lambda: seen.flushes)
    assert seen.flushes == [[0, 1, 2, 3, 4]]


async def test_a_full_batch_is_flushed_at_once():
    seen = FlushRecorder()
    coalescer = RequestCoalescer(seen, frozen)
    for item in range(MAX_ITEMS):
        coalescer.add(item)
    assert await turns_until(lambda: seen.flushes) <= 2


async def test_the_delay_is_bounded_where_turns_take_long():
    seen, seconds = FlushRecorder(), itertools.count(0.0, MAX_DELAY / 2)
    RequestCoalescer(seen, lambda: next(seconds)).add(1)
    assert await turns_until(lambda: seen.flushes) <= 4


async def test_a_request_after_a_flush_waits_for_idle_turns_again():
    seen = FlushRecorder()
    coalescer = RequestCoalescer(seen, frozen)
    coalescer.add(1)
    await turns_until(lambda: seen.flushes)
    coalescer.add(2)
    assert await turns_until(lambda: len(seen.flushes) == 2) >= IDLE_TURNS
    assert seen.flushes == [[1], [2]]
