import asyncio
from collections.abc import AsyncIterator

import pytest

from animora_server.cache.queues import MAX_QUEUED_BYTES, MAX_WRITE_BYTES, MAX_WRITES, Write, WriteQueue


class Redis:
    """Records the writes that it receives; each batch waits until the test releases it."""

    def __init__(self) -> None:
        self.batches: list[list[Write]] = []
        self.let_through = asyncio.Semaphore(0)
        self.arrived = asyncio.Semaphore(0)

    async def store(self, writes: list[Write]) -> list[bool]:
        await self.let_through.acquire()
        self.batches.append(writes)
        self.arrived.release()
        return [write.value != b"refused" for write in writes]

    async def take(self, batches: int) -> list[list[Write]]:
        for _ in range(batches):
            self.let_through.release()
            await self.arrived.acquire()
        return self.batches


@pytest.fixture
async def redis() -> Redis:
    return Redis()


@pytest.fixture
async def queue(redis: Redis) -> AsyncIterator[WriteQueue]:
    made = WriteQueue(redis.store)
    yield made
    await made.aclose()


async def test_writes_are_sent_in_order_one_batch_at_a_time(redis: Redis, queue: WriteQueue):
    writes = [Write(b"%d" % number, b"value") for number in range(MAX_WRITES + 2)]
    assert all(queue.offer(write) for write in writes)
    assert await redis.take(2) == [writes[:MAX_WRITES], writes[MAX_WRITES:]]


async def test_a_batch_has_a_limited_number_of_bytes_but_at_least_one_write(redis: Redis, queue: WriteQueue):
    huge, small, other = Write(b"a", bytes(MAX_WRITE_BYTES + 1)), Write(b"b", b"1"), Write(b"c", None)
    for write in (huge, small, other):
        queue.offer(write)
    assert await redis.take(2) == [[huge], [small, other]]


async def test_a_full_queue_refuses_writes_until_a_batch_was_sent(redis: Redis, queue: WriteQueue):
    half = Write(b"", bytes(MAX_QUEUED_BYTES // 2))
    assert [queue.offer(half) for _ in range(3)] == [True, True, False]
    await redis.take(1)
    assert queue.offer(half)


async def test_writes_after_the_queue_was_empty_are_sent(redis: Redis, queue: WriteQueue):
    first, second = Write(b"a", b"1"), Write(b"b", b"2")
    queue.offer(first)
    await redis.take(1)
    queue.offer(second)
    assert await redis.take(1) == [[first], [second]]


async def test_closing_does_not_wait_for_a_redis_that_hangs(redis: Redis, queue: WriteQueue):
    queue.offer(Write(b"a", b"1"))
    await asyncio.sleep(0)
    await queue.aclose()
    assert redis.batches == []


async def test_each_write_has_an_outcome(redis: Redis, queue: WriteQueue):
    loop = asyncio.get_running_loop()
    outcomes = [loop.create_future() for _ in range(3)]
    for outcome, value in zip(outcomes, (b"1", b"refused", b"3"), strict=True):
        queue.offer(Write(b"a", value), outcome)
    outcomes[2].cancel()  # a cancelled waiter gets no outcome
    await redis.take(1)
    assert (await outcomes[0], await outcomes[1]) == (True, False)


async def test_closing_resolves_all_outcomes(redis: Redis, queue: WriteQueue):
    loop = asyncio.get_running_loop()
    sent, queued = loop.create_future(), loop.create_future()
    queue.offer(Write(b"a", b"1"), sent)
    await asyncio.sleep(0)
    queue.offer(Write(b"b", b"2"), queued)
    await queue.aclose()
    assert (await sent, await queued) == (False, False)
