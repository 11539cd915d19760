"""What the client does about an overloaded server: retries, their budget, calls held back, priorities."""

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from random import Random

import grpc
import pytest

from animora_client import (
    AsyncRankingClient,
    CallCounts,
    ChannelOptions,
    DeadlineExceeded,
    InvalidArgument,
    Priority,
    RankingClient,
    RankRequest,
    ResourceExhausted,
    RetryPolicy,
    Throttled,
    Throttling,
    Unavailable,
)
from animora_client.connection import PRIORITY, Connection
from animora_client.errors import ErrorDetails, make_error
from animora_client.overload import FEW_CALLS, SPARE_RETRIES, AdaptiveThrottle, LoadControl, RetryBudget
from tests.client.scripted_server import Handler, bad_request, failing, ranked, retry_info
from tests.support.clocks import ManualClock

Code = grpc.StatusCode
REFUSED = make_error(Code.RESOURCE_EXHAUSTED, "too many calls in flight", ErrorDetails(retry_after=0.1))
EVERY_CALL_IS_SENT = ChannelOptions(throttling=None)


def refusing(seconds):
    """An overloaded server's answer."""
    return failing(Code.RESOURCE_EXHAUSTED, "too many calls in flight", retry_info(seconds))


# The decisions alone, with a clock.


class Service:
    """Accepts a number of calls each second, and refuses the rest."""

    def __init__(self, throttle, clock):
        self.throttle = throttle
        self.clock = clock

    def second(self, calls, capacity):
        """Makes calls for a second; returns how many were sent, and how many accepted."""
        sent = accepted = 0
        for number in range(calls):
            self.clock.now += 1 / calls
            if self.throttle.holds_back():
                continue
            sent += 1
            accepts = accepted < capacity * (number + 1) / calls
            accepted += accepts
            self.throttle.record(accepts)
        return sent, accepted


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def service(clock):
    return Service(AdaptiveThrottle(Throttling(ratio=2.0, window=4.0), clock, Random(5).random), clock)


def test_no_call_is_held_back_while_the_server_accepts_half_of_them(service):
    for _ in range(20):
        assert service.second(calls=200, capacity=100)[0] >= 195


def test_a_client_sends_about_twice_what_an_overloaded_server_accepts(service):
    for _ in range(10):
        service.second(calls=1000, capacity=100)

    sent, accepted = zip(*(service.second(calls=1000, capacity=100) for _ in range(10)), strict=True)

    assert sum(accepted) >= 990, "the server's capacity is used"
    assert 180 <= sum(sent) / 10 <= 220


def test_every_call_is_sent_again_within_two_windows_after_an_overload(service):
    for _ in range(20):
        service.second(calls=1000, capacity=100)

    for _ in range(8):
        service.second(calls=50, capacity=100)

    assert service.second(calls=50, capacity=100) == (50, 50)


def test_a_server_that_refuses_every_call_is_still_tried(service):
    for _ in range(10):
        service.second(calls=1000, capacity=0)

    sent = sum(service.second(calls=1000, capacity=0)[0] for _ in range(40))

    assert 1 <= sent <= 40, "about one call in a window"


def test_a_client_with_few_calls_is_not_held_back(service):
    for _ in range(20):
        assert service.second(calls=2, capacity=0)[0] == 2
    assert FEW_CALLS > 2 * 4


def test_answers_older_than_the_window_are_forgotten(service, clock):
    service.second(calls=1000, capacity=0)
    assert service.throttle.holds_back()

    clock.now += 4.0

    assert not service.throttle.holds_back()


def test_retries_are_a_share_of_the_calls_and_a_few_more():
    budget = RetryBudget(0.2)

    retries = 0
    for _ in range(1000):
        budget.add_call()
        retries += budget.take_retry()

    assert 200 <= retries <= 200 + SPARE_RETRIES


def test_calls_without_retries_save_up_only_the_spare_ones():
    budget = RetryBudget(0.2)
    for _ in range(1000):
        budget.add_call()

    assert sum(budget.take_retry() for _ in range(100)) == SPARE_RETRIES


def load_control(clock, draw=lambda: 0.0, **options):
    return LoadControl(ChannelOptions(**options), clock, draw)


def begin(load, timeout=1.0, priority=None):
    attempts = load.start(Connection().call(timeout, None, priority))
    attempts.next()
    return attempts


@pytest.mark.parametrize(("draw", "delay"), [(0.0, 0.1), (1.0, 0.15)])
def test_a_refused_call_is_retried_after_the_named_delay_or_a_little_later(clock, draw, delay):
    attempts = begin(load_control(clock, lambda: draw))

    assert attempts.retry_delay(REFUSED) == pytest.approx(delay)
    clock.now += delay
    assert attempts.next()["timeout"] == pytest.approx(1.0 - delay)


def test_a_refused_call_is_not_retried_after_its_deadline(clock):
    attempts = begin(load_control(clock), timeout=0.1)

    assert attempts.retry_delay(REFUSED) is None


def test_a_refused_call_has_as_many_attempts_as_others(clock):
    attempts = begin(load_control(clock, retry=RetryPolicy(max_attempts=3)))

    delays = []
    while (delay := attempts.retry_delay(REFUSED)) is not None:
        delays.append(delay)
        attempts.next()

    assert len(delays) == 2


def test_retries_of_refused_calls_stay_within_the_budget(clock):
    load = load_control(clock, retry=RetryPolicy(budget=0.1), throttling=None)

    retries = sum(begin(load).retry_delay(REFUSED) is not None for _ in range(500))

    assert 50 <= retries <= 50 + SPARE_RETRIES
    assert load.counts == CallCounts(sent=500, refused=500, retried=retries)


@pytest.mark.parametrize("kind", [Code.INVALID_ARGUMENT, Code.INTERNAL, Code.PERMISSION_DENIED])
def test_other_errors_count_as_accepted_calls(clock, kind):
    load = load_control(clock)

    for _ in range(100):
        assert begin(load).retry_delay(make_error(kind, "no")) is None
    for _ in range(90):
        begin(load).retry_delay(REFUSED)

    begin(load)
    assert load.counts.throttled == 0


def test_a_call_that_grpc_sheds_counts_as_refused(clock):
    draws = [1.0]
    load = load_control(clock, lambda: draws[-1])
    for _ in range(20):
        assert begin(load).retry_delay(Unavailable("shed", Code.CANCELLED)) is None
    draws.append(0.5)
    with pytest.raises(Throttled):
        begin(load)
    assert load.counts.refused == 20


@pytest.mark.parametrize("kind", [Unavailable, DeadlineExceeded])
@pytest.mark.parametrize("refused", [True, False])
def test_a_call_without_an_answer_counts_neither_way(clock, kind, refused):
    draws = [1.0]
    load = load_control(clock, lambda: draws[-1])
    for _ in range(20):
        attempts = begin(load)
        attempts.retry_delay(REFUSED) if refused else attempts.answered()
    for _ in range(100):
        begin(load).retry_delay(kind("gone", Code.UNAVAILABLE))

    draws.append(0.9)

    if refused:
        with pytest.raises(Throttled):
            begin(load)
    else:
        begin(load)


def test_refused_batch_calls_hold_back_no_interactive_ones(clock):
    load = load_control(clock)
    for _ in range(100):
        try:
            begin(load, priority=Priority.BATCH).retry_delay(REFUSED)
        except Throttled:
            continue

    with pytest.raises(Throttled):
        begin(load, priority=Priority.BATCH)
    begin(load, priority=Priority.INTERACTIVE)


@pytest.mark.parametrize(
    "numbers", [{"ratio": 1.0}, {"ratio": float("nan")}, {"window": 0}, {"window": float("inf")}]
)
def test_invalid_throttling_is_refused(numbers):
    with pytest.raises(ValueError, match="must be"):
        Throttling(**numbers)


# With a server.


async def test_a_refused_call_is_retried(client, server):
    server.script = [refusing(0.01), refusing(0.01)]

    assert (await client.rank(7, [1, 2])).post_ids == (2, 1)
    assert len(server.requests) == 3
    assert client.counts == CallCounts(sent=3, refused=2, retried=2)


async def test_the_sync_client_retries_a_refused_call(server):
    server.script = [refusing(0.01), refusing(0.01)]

    def call():
        with RankingClient(server.target, timeout=10) as client:
            return client.rank(7, [1, 2]).post_ids, client.counts

    assert await asyncio.to_thread(call) == ((2, 1), CallCounts(sent=3, refused=2, retried=2))


async def test_a_refused_batch_and_a_refused_page_are_retried(client, server):
    server.script = [refusing(0.01)]
    assert len(await client.batch_rank([RankRequest(7, [1])])) == 1

    server.script = [refusing(0.01)]
    assert (await client.timeline_page(7)).post_ids == (12, 11, 10, 9, 8)


async def test_a_refusal_without_a_delay_is_not_retried(client, server):
    """Such as a message that is too large."""
    server.script = [failing(Code.RESOURCE_EXHAUSTED, "message larger than max")]

    with pytest.raises(ResourceExhausted):
        await client.rank(7, [1])

    assert client.counts == CallCounts(sent=1)


async def test_refused_calls_are_not_retried_with_retries_turned_off(server):
    server.script = [refusing(0.01)]
    single_attempt = ChannelOptions(retry=RetryPolicy(max_attempts=1))

    async with AsyncRankingClient(server.target, timeout=10, channel=single_attempt) as client:
        with pytest.raises(ResourceExhausted, match="too many calls in flight"):
            await client.rank(7, [1])


CALLS = 50  # of a round


class Overload:
    """A server with room for some calls of each round."""

    def __init__(self, server):
        self.room = 0
        self.received = 0
        server.script = Handlers(self.handle)

    async def handle(self, request, context):
        self.received += 1
        self.room -= 1
        return await (ranked if self.room >= 0 else refusing(60))(request, context)

    async def round(self, client, room):
        """Makes CALLS calls at once; returns how many the server received, and their outcomes."""
        self.room, self.received = room, 0
        results = await asyncio.gather(*(client.rank(7, [1]) for _ in range(CALLS)), return_exceptions=True)
        return self.received, Counter(type(result).__name__ for result in results)


class Handlers(list[Handler]):
    """A script that never ends."""

    def __init__(self, handler):
        super().__init__([handler])

    def pop(self, index=-1):
        return self[0]


@asynccontextmanager
async def client_of(server, throttling):
    async with AsyncRankingClient(
        server.target, timeout=30, channel=ChannelOptions(throttling=throttling)
    ) as client:
        yield client


async def test_under_overload_a_client_sends_twice_what_is_accepted_and_then_recovers(server):
    overload = Overload(server)
    async with client_of(server, Throttling(window=3600)) as client:
        for _ in range(8):
            await overload.round(client, room=5)
        rounds = [await overload.round(client, room=5) for _ in range(12)]

        assert 7 <= sum(received for received, _ in rounds) / 12 <= 15, "10 are twice what is accepted"
        assert sum(outcomes["Ranking"] for _, outcomes in rounds) >= 50
        counts = client.counts
        assert counts.sent + counts.throttled == 20 * CALLS

        while (await overload.round(client, room=CALLS))[1] != {"Ranking": CALLS}:
            pass


async def test_a_call_that_is_held_back_says_so_and_reaches_no_server(server):
    overload = Overload(server)
    async with client_of(server, Throttling(window=3600)) as client:
        for _ in range(10):
            await overload.round(client, room=0)
        received = len(server.requests)

        while True:
            try:
                await client.rank(7, [1])
            except Throttled as raised:
                error = raised
                break
            except ResourceExhausted:
                received += 1

    assert isinstance(error, ResourceExhausted)
    assert (error.code, error.reason, error.retry_after) == (
        Code.RESOURCE_EXHAUSTED,
        "CLIENT_THROTTLED",
        None,
    )
    assert str(error) == "RESOURCE_EXHAUSTED: not sent: the server refused most of this client's latest calls"
    assert len(server.requests) == received


async def test_without_throttling_every_call_is_sent(server):
    overload = Overload(server)
    async with client_of(server, None) as client:
        for _ in range(5):
            assert await overload.round(client, room=0) == (CALLS, {"ResourceExhausted": CALLS})


async def test_wrong_requests_hold_back_nothing(client, server):
    server.script = [failing(Code.INVALID_ARGUMENT, "no", bad_request("post_ids", "no"))] * 100
    for _ in range(100):
        with pytest.raises(InvalidArgument):
            await client.rank(7, [1])

    assert (await client.rank(7, [1])).post_ids == (1,)


async def test_a_cancelled_call_holds_back_nothing(client, server):
    async def rank():
        await client.rank(7, [1])

    for _ in range(3 * FEW_CALLS):
        task = asyncio.create_task(rank())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    assert (await client.rank(7, [1])).post_ids == (1,)
    assert client.counts.throttled == 0


async def test_the_priority_of_the_client_and_of_a_call_is_sent(server):
    requests = [RankRequest(7, [1])]
    async with AsyncRankingClient(server.target, timeout=10, priority=Priority.BATCH) as client:
        await client.rank(7, [1])
        await client.rank(7, [1], priority=Priority.INTERACTIVE)
        await client.batch_rank(requests)
        await client.timeline_page(7)
    async with AsyncRankingClient(server.target, timeout=10) as client:
        await client.rank(7, [1])
        await client.batch_rank(requests, priority=Priority.BATCH)
        async for _ in client.timeline(7, page_size=12, priority=Priority.BATCH):
            pass
        await client.rank(7, [1], metadata={PRIORITY: "batch"})

    sent = [metadata.get(PRIORITY, "interactive") for metadata in server.metadata]
    assert sent == [
        *("batch", "interactive", "batch", "batch"),
        *("interactive", "batch", "batch", "batch"),
    ]


async def test_the_sync_client_sends_its_priority(server):
    def call():
        with RankingClient(server.target, timeout=10, priority=Priority.BATCH) as client:
            client.rank(7, [1])
            client.rank(7, [1], priority=Priority.INTERACTIVE)

    await asyncio.to_thread(call)

    assert [metadata.get(PRIORITY) for metadata in server.metadata] == ["batch", None]
