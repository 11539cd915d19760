"""One timer for many deadlines."""

import asyncio
from dataclasses import dataclass, field

from animora_server.batching.deadline_timer import DeadlineTimer


@dataclass(eq=False)
class Waiter:
    deadline: float
    expired: asyncio.Event = field(default_factory=asyncio.Event)

    def expire(self) -> None:
        self.expired.set()


async def test_entries_expire_at_their_deadlines_and_not_before_in_any_order():
    now = asyncio.get_running_loop().time()
    never, late, early = (Waiter(now + seconds) for seconds in (1e6, 0.03, 0.01))
    waiting = [never, late, early]
    timer = DeadlineTimer(lambda: (waiter for waiter in waiting if not waiter.expired.is_set()))
    for waiter in waiting:
        timer.watch(waiter.deadline)
    for waiter in (early, late):
        await waiter.expired.wait()
        assert asyncio.get_running_loop().time() >= waiter.deadline
        assert not never.expired.is_set()


async def test_an_entry_that_comes_after_the_last_one_expired_expires_too():
    waiting: list[Waiter] = []
    timer = DeadlineTimer(lambda: waiting)
    for _ in range(2):
        waiting[:] = [Waiter(asyncio.get_running_loop().time() + 0.005)]
        timer.watch(waiting[0].deadline)
        await waiting[0].expired.wait()
        waiting.clear()


async def test_a_deadline_in_the_past_expires_at_once():
    waiter = Waiter(asyncio.get_running_loop().time() - 1)
    DeadlineTimer(lambda: [waiter]).watch(waiter.deadline)
    await waiter.expired.wait()
