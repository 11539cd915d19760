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


async def test_each_expires_at_its_deadline_and_not_before_whatever_their_order():
    now = asyncio.get_running_loop().time()
    never, late, early = (Waiter(now + seconds) for seconds in (1e6, 0.03, 0.01))
    waiting = [never, late, early]
    expiry = DeadlineTimer(lambda: (each for each in waiting if not each.expired.is_set()))
    for each in waiting:
        expiry.watch(each.deadline)
    for each in (early, late):
        await each.expired.wait()
        assert asyncio.get_running_loop().time() >= each.deadline
        assert not never.expired.is_set()


async def test_who_comes_after_all_others_have_gone_expires_too():
    waiting: list[Waiter] = []
    expiry = DeadlineTimer(lambda: waiting)
    for _ in range(2):
        waiting[:] = [Waiter(asyncio.get_running_loop().time() + 0.005)]
        expiry.watch(waiting[0].deadline)
        await waiting[0].expired.wait()
        waiting.clear()


async def test_a_deadline_that_has_passed_expires_in_a_moment():
    waiter = Waiter(asyncio.get_running_loop().time() - 1)
    DeadlineTimer(lambda: [waiter]).watch(waiter.deadline)
    await waiter.expired.wait()
