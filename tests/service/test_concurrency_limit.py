"""The adaptive limit of calls in flight, on a simulated server."""

from hypothesis import given, settings
from hypothesis import strategies as st

from animora_server.service.admission import INTERVAL, MIN_CALLS, TIMEOUT_SHARE, ConcurrencyLimit
from tests.support.clocks import ManualClock

MOST = 4096


def overload(
    limit: ConcurrencyLimit, clock: ManualClock, rate: float, timeout: float, intervals: int
) -> None:
    """A server that answers `rate` calls a second while as many are in flight as the limit allows."""
    for _ in range(intervals):
        for _ in range(20):
            limit.answered(limit.calls / rate, timeout, limit.calls)
        clock.now += INTERVAL
        limit.answered(limit.calls / rate, timeout, limit.calls)


def test_the_limit_starts_at_the_most_calls():
    assert ConcurrencyLimit(MOST, ManualClock()).calls == MOST


@given(st.floats(500, 20_000), st.floats(0.1, 2))
@settings(max_examples=30)
def test_under_overload_calls_take_about_the_target_share_of_their_timeout(rate, timeout):
    clock = ManualClock()
    limit = ConcurrencyLimit(MOST, clock)
    overload(limit, clock, rate, timeout, 40)
    expected = min(max(rate * timeout * TIMEOUT_SHARE, MIN_CALLS), MOST)
    assert 0.5 * expected - 1 <= limit.calls <= 1.6 * expected + 10


def test_a_burst_is_cut_down_to_what_was_in_flight():
    clock = ManualClock()
    limit = ConcurrencyLimit(MOST, clock)
    clock.now += INTERVAL
    for _ in range(20):
        limit.answered(latency=0.4, timeout=0.5, in_flight=600)
    assert limit.calls == 375


def test_the_limit_never_falls_below_its_minimum():
    clock = ManualClock()
    limit = ConcurrencyLimit(MOST, clock)
    overload(limit, clock, 10, 0.5, 100)
    assert limit.calls >= MIN_CALLS


def test_after_an_overload_the_limit_returns_to_the_most_calls():
    clock = ManualClock()
    limit = ConcurrencyLimit(MOST, clock)
    overload(limit, clock, 1000, 0.5, 40)
    for _ in range(200):
        clock.now += INTERVAL
        for _ in range(20):
            limit.answered(latency=0.002, timeout=0.5, in_flight=2)
    assert limit.calls == MOST


def test_a_few_slow_calls_among_many_fast_ones_change_nothing():
    clock = ManualClock()
    limit = ConcurrencyLimit(MOST, clock)
    clock.now += INTERVAL
    for number in range(100):
        limit.answered(0.4 if number % 3 == 0 else 0.002, 0.5, 10)
    assert limit.calls == MOST


def test_callers_with_much_time_may_wait_longer():
    clock = ManualClock()
    limit = ConcurrencyLimit(MOST, clock)
    overload(limit, clock, 1000, 60, 20)
    assert limit.calls == MOST


def test_a_limit_below_the_minimum_stays():
    clock = ManualClock()
    limit = ConcurrencyLimit(2, clock)
    overload(limit, clock, 10, 0.1, 20)
    assert limit.calls == 2
