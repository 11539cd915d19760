"""One call of a function for many."""

import asyncio
from collections.abc import Sequence

import pytest

from animora_server.batching import Together


class Doubler:
    """Doubles numbers, records what it was asked together, and fails for a negative one."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.asked.append(list(numbers))
        if min(numbers) < 0:
            raise ValueError(f"{min(numbers)} is negative")
        return [2 * number for number in numbers]


@pytest.fixture
def doubler() -> Doubler:
    return Doubler()


async def test_who_asks_in_one_turn_is_answered_by_one_call(doubler):
    together = Together(doubler)
    assert await asyncio.gather(*(together(number) for number in (1, 2, 3))) == [2, 4, 6]
    assert await together(4) == 8
    assert doubler.asked == [[1, 2, 3], [4]]


async def test_the_fault_of_one_is_not_its_neighbours(doubler):
    together = Together(doubler)
    one, bad, two = await asyncio.gather(*(together(n) for n in (1, -1, 2)), return_exceptions=True)
    assert (one, two) == (2, 4)
    assert str(bad) == "-1 is negative"


async def test_whoever_was_cancelled_is_left_out(doubler):
    together = Together(doubler)
    gone, stays = together(-1), together(1)
    gone.cancel()
    assert await stays == 2
    assert doubler.asked == [[1]]


async def test_nobody_left_means_no_call(doubler):
    together = Together(doubler)
    together(1).cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert doubler.asked == []
    assert await together(2) == 4


async def test_what_is_asked_by_an_answer_comes_in_the_next_call(doubler):
    together = Together(doubler)

    async def twice(number: int) -> int:
        doubled: int = await together(number)
        again: int = await together(doubled)
        return again

    assert list(await asyncio.gather(twice(1), twice(2))) == [4, 8]
    assert doubler.asked == [[1, 2], [2, 4]]
