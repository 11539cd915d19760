"""The adaptive limit of calls in flight, on a simulated server."""

import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st

from animora_server.service.admission import (
    INTERVAL,
    MAX_DECREASE,
    MIN_CALLS,
    MIN_SAMPLES,
    TIMEOUT_SHARE,
    ConcurrencyLimit,
)
from tests.support.clocks import ManualClock

MOST = 4096


def overload(
    limit: ConcurrencyLimit, clock: ManualClock, rate: int, timeout: float, intervals: int, wait: float = 0.5
) -> None:
    """A server that answers `rate` calls a second while as many are in flight as the limit allows.

    `wait` is the share of the latency before the handler is called.
    """
    for _ in range(intervals):
        latency = limit.calls / rate
        seconds = max(INTERVAL, 1.5 * MIN_SAMPLES / rate)
        clock.now += seconds
        for _ in range(round(seconds * rate)):
            limit.record_wait(latency * wait / 2)
            limit.record_call(latency * (1 - wait), max(timeout - latency * wait, 0), is_answer=True)


def test_the_limit_starts_at_the_most_calls():
    assert ConcurrencyLimit(MOST, ManualClock()).calls == MOST


@given(st.integers(500, 20_000), st.floats(0.1, 2), st.floats(0, 1))
@settings(max_examples=30)
def test_under_overload_calls_take_about_the_target_share_of_their_timeout(rate, timeout, wait):
    clock = ManualClock()
    limit = ConcurrencyLimit(MOST, clock)
    overload(limit, clock, rate, timeout, 40, wait)
    expected = min(max(rate * timeout * TIMEOUT_SHARE, MIN_CALLS), MOST)
    assert 0.5 * expected - 1 <= limit.calls <= 1.6 * expected + 10


def test_the_latency_includes_two_waits_for_the_event_loop():
    clock = ManualClock()
    limit = ConcurrencyLimit(MOST, clock)
    for _ in range(2000):
        limit.record_wait(0.2)
        limit.record_call(0.001, 0.1, is_answer=True)
    clock.now += 2 * INTERVAL
    limit.record_call(0.001, 0.1, is_answer=True)
    assert limit.calls == round(2001 / (2 * INTERVAL) * TIMEOUT_SHARE * 0.5)


def test_calls_that_nobody_waits_for_any_more_are_no_answers():
    clock = ManualClock()
    limit = ConcurrencyLimit(MOST, clock)
    for number in range(4000):
        limit.record_call(0.4, 0.5, is_answer=number % 2 == 0)
    clock.now += 2 * INTERVAL
    limit.record_call(0.4, 0.5, is_answer=False)
    assert limit.calls == round(2000 / (2 * INTERVAL) * TIMEOUT_SHARE * 0.5)


def test_a_slow_burst_after_a_quiet_minute_hardly_lowers_the_limit():
    clock = ManualClock()
    limit = ConcurrencyLimit(MOST, clock)
    for _ in range(1000):
        limit.record_wait(0.2)
    clock.now += 60
    for _ in range(3 * MIN_SAMPLES):
        clock.now += INTERVAL / MIN_SAMPLES
        limit.record_call(0.2, 0.5, is_answer=True)
    assert limit.calls >= MOST * MAX_DECREASE**2


def test_waits_of_an_idle_server_do_not_count():
    clock = ManualClock()
    limit = ConcurrencyLimit(MOST, clock)
    for _ in range(1000):
        limit.record_wait(0.4)
    clock.now += 3600
    for _ in range(2 * MIN_SAMPLES):
        clock.now += INTERVAL / MIN_SAMPLES
        limit.record_call(0.001, 0.5, is_answer=True)
    assert limit.calls == MOST


def test_callers_with_next_to_no_time_do_not_lower_the_limit_of_others():
    clock = ManualClock()
    limit = ConcurrencyLimit(MOST, clock)
    for number in range(2000):
        clock.now += 0.001
        limit.record_call(0.001, 0.001 if number % 3 else 0.5, is_answer=number % 3 == 0)
    assert limit.calls == MOST


def test_callers_that_give_up_early_do_not_raise_the_limit():
    clock = ManualClock()
    limit = ConcurrencyLimit(MOST, clock)
    overload(limit, clock, 1000, 0.5, 40)
    settled = limit.calls
    for number in range(2000):
        clock.now += 0.001
        limit.record_call(0.4 if number % 3 == 0 else 0.001, 0.5, is_answer=number % 3 == 0)
    assert limit.calls <= settled


def test_answers_of_batch_calls_count_and_their_latency_does_not():
    clock = ManualClock()
    limit = ConcurrencyLimit(MOST, clock)
    for _ in range(2000):
        limit.record_call(0.2, 0.5, is_answer=True)
        limit.record_call(30.0, 60.0, is_answer=True, is_batch=True)
    clock.now += 2 * INTERVAL
    limit.record_call(0.2, 0.5, is_answer=True)
    assert limit.calls == round(4001 / (2 * INTERVAL) * TIMEOUT_SHARE * 0.5)


def test_waits_without_a_call_that_ends_take_no_memory():
    limit = ConcurrencyLimit(MOST, ManualClock())
    tracemalloc.start()
    for number in range(200_000):
        limit.record_wait(float(number))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 1 << 20


def test_the_limit_never_falls_below_its_minimum():
    clock = ManualClock()
    limit = ConcurrencyLimit(MOST, clock)
    overload(limit, clock, 10, 0.5, 100)
    assert limit.calls >= MIN_CALLS


def test_after_an_overload_the_limit_returns_to_the_most_calls():
    clock = ManualClock()
    limit = ConcurrencyLimit(MOST, clock)
    overload(limit, clock, 1000, 0.5, 40)
    for _ in range(400):
        clock.now += INTERVAL
        for _ in range(20):
            limit.record_call(0.002, 0.5, is_answer=True)
    assert limit.calls == MOST


def test_a_few_slow_calls_among_many_fast_ones_change_nothing():
    clock = ManualClock()
    limit = ConcurrencyLimit(MOST, clock)
    clock.now += INTERVAL
    for number in range(100):
        limit.record_call(0.4 if number % 3 == 0 else 0.002, 0.5, is_answer=True)
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
