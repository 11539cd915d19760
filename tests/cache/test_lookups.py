import asyncio
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from animora_server.cache.queues import MAX_LOOKUP_BYTES, MAX_LOOKUP_KEYS, Found, LookupBatcher, NoAnswer

NEVER = 60.0


class Redis:
    """Answers a round trip when the test says so; a key's value is the key, except for `missing`."""

    def __init__(self) -> None:
        self.rounds: list[list[bytes]] = []
        self.requested = asyncio.Semaphore(0)
        self._answers: asyncio.Queue[bool | Exception] = asyncio.Queue()

    async def fetch(self, keys: list[bytes]) -> list[bytes | None] | None:
        self.rounds.append(keys)
        self.requested.release()
        answer = await self._answers.get()
        if isinstance(answer, Exception):
            raise answer
        return [None if key == b"missing" else key for key in keys] if answer else None

    def answer(self, rounds: int = 1) -> None:
        for _ in range(rounds):
            self._answers.put_nowait(True)

    def fail(self) -> None:
        self._answers.put_nowait(False)

    def crash(self, error: Exception) -> None:
        self._answers.put_nowait(error)


@pytest.fixture
async def redis() -> Redis:
    return Redis()


@pytest.fixture
async def lookups(redis: Redis) -> AsyncIterator[LookupBatcher]:
    made = LookupBatcher(redis.fetch, NEVER)
    yield made
    await made.aclose()


async def begin(lookups: LookupBatcher, *keys: bytes, size: int = 100) -> "list[asyncio.Future[Found]]":
    """Look-ups of one key each, all waiting when this returns."""
    found = [lookups.find([key], size) for key in keys]
    await asyncio.sleep(0)
    return found


async def test_lookups_of_one_turn_share_a_round_trip(redis: Redis, lookups: LookupBatcher):
    redis.answer()
    assert await asyncio.gather(*(lookups.find([key], 1) for key in (b"a", b"b"))) == [[b"a"], [b"b"]]
    assert redis.rounds == [[b"a", b"b"]]


async def test_lookups_that_arrive_during_a_round_trip_share_the_next(redis: Redis, lookups: LookupBatcher):
    first = await begin(lookups, b"a")
    await redis.requested.acquire()
    rest = await begin(lookups, b"b", b"c", b"d")
    redis.answer(2)
    assert await asyncio.gather(*first, *rest) == [[b"a"], [b"b"], [b"c"], [b"d"]]
    assert redis.rounds == [[b"a"], [b"b", b"c", b"d"]]


async def test_a_key_without_a_value_is_a_miss_and_its_neighbours_are_not(
    redis: Redis, lookups: LookupBatcher
):
    redis.answer()
    found = await asyncio.gather(*(lookups.find([key], 1) for key in (b"a", b"missing", b"b")))
    assert found == [[b"a"], [None], [b"b"]]


async def test_the_keys_of_a_lookup_are_never_split_over_round_trips(redis: Redis, lookups: LookupBatcher):
    pairs = [[b"%d" % number, b"missing"] for number in range(MAX_LOOKUP_KEYS // 2 - 1)]
    three = [b"a", b"b", b"c"]
    redis.answer(2)
    found = await asyncio.gather(*(lookups.find(keys, 1) for keys in (*pairs, three)))
    assert found == [*([key, None] for key, _ in pairs), three]
    assert [len(round_trip) for round_trip in redis.rounds] == [MAX_LOOKUP_KEYS - 2, 3]


async def test_a_round_trip_has_a_limited_number_of_keys(redis: Redis, lookups: LookupBatcher):
    redis.answer(2)
    keys = [b"%d" % number for number in range(MAX_LOOKUP_KEYS + 1)]
    assert await asyncio.gather(*(lookups.find([key], 1) for key in keys)) == [[key] for key in keys]
    assert [len(round_trip) for round_trip in redis.rounds] == [MAX_LOOKUP_KEYS, 1]


async def test_a_round_trip_has_a_limited_number_of_bytes_but_at_least_one_key(
    redis: Redis, lookups: LookupBatcher
):
    redis.answer(3)
    sizes = {
        b"huge": MAX_LOOKUP_BYTES + 1,
        b"half": MAX_LOOKUP_BYTES // 2,
        b"rest": MAX_LOOKUP_BYTES // 2,
        b"more": 1,
    }
    await asyncio.gather(*(lookups.find([key], size) for key, size in sizes.items()))
    assert redis.rounds == [[b"huge"], [b"half", b"rest"], [b"more"]]


@pytest.mark.failure(21)
async def test_a_cancelled_caller_does_not_cancel_the_round_trip(redis: Redis, lookups: LookupBatcher):
    leaving, staying = await begin(lookups, b"a", b"b")
    await redis.requested.acquire()
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    redis.answer()
    assert await staying == [b"b"]


async def test_a_lookup_that_is_cancelled_while_it_waits_is_never_sent(redis: Redis, lookups: LookupBatcher):
    first = await begin(lookups, b"a")
    await redis.requested.acquire()
    leaving, staying = await begin(lookups, b"b", b"c")
    leaving.cancel()
    await asyncio.wait([leaving])
    redis.answer(2)
    assert await asyncio.gather(*first, staying) == [[b"a"], [b"c"]]
    assert redis.rounds == [[b"a"], [b"c"]]


async def test_an_unanswered_round_trip_fails_only_its_own_lookups(redis: Redis, lookups: LookupBatcher):
    first = await begin(lookups, b"a", b"b")
    await redis.requested.acquire()
    second = await begin(lookups, b"c")
    redis.fail()
    redis.answer()
    assert await asyncio.gather(*first, *second) == [NoAnswer.ERROR, NoAnswer.ERROR, [b"c"]]


@pytest.mark.failure(20)
async def test_a_lookup_ends_at_its_timeout_whatever_redis_does(redis: Redis):
    lookups = LookupBatcher(redis.fetch, timeout=0.001)
    assert await lookups.find([b"a"], 1) is NoAnswer.ERROR
    assert await lookups.find([b"behind the one that hangs"], 1) is NoAnswer.ERROR
    await lookups.aclose()


async def test_a_lookup_ends_at_its_callers_deadline_if_that_is_earlier(redis: Redis, lookups: LookupBatcher):
    now = asyncio.get_running_loop().time()
    assert lookups.lookup_deadline() > now + 1
    assert await lookups.find([b"a"], 1, until=now) is NoAnswer.ERROR


async def test_an_unexpected_error_is_logged_and_a_miss(redis: Redis, lookups: LookupBatcher):
    bug = ZeroDivisionError()
    redis.crash(bug)
    with capture_logs() as logs:
        assert await lookups.find([b"a"], 1) is NoAnswer.ERROR
        redis.answer()
        assert await lookups.find([b"b"], 1) == [b"b"]
    assert [(entry["log_level"], entry["exc_info"]) for entry in logs] == [("critical", bug)]


async def test_closing_ends_all_lookups_at_once(redis: Redis, lookups: LookupBatcher):
    flying = await begin(lookups, b"a")
    await redis.requested.acquire()
    waiting = await begin(lookups, b"b")
    await lookups.aclose()
    assert await asyncio.gather(*flying, *waiting) == [NoAnswer.ERROR, NoAnswer.SKIPPED]
